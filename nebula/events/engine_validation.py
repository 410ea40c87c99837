"""Why a load request's memory, options or variables are not valid for an engine. Pure."""

import re

from nebula.events import memory
from nebula.events.engine_options import PARALLEL, option_name
from nebula.events.intents import ModelLoadRequested

RESERVED_OPTIONS = frozenset(
    {
        "api-key",
        "api-server-count",
        "config",
        "data-parallel-size",
        "enable-lora",
        "headless",
        "host",
        "lora-modules",
        "middleware",
        "model",
        "port",
        "root-path",
        "runner",
        "served-model-name",
        "ssl-ca-certs",
        "ssl-certfile",
        "ssl-keyfile",
        "task",
        "uds",
    }
)
"""Options that Nebula sets itself, or that would take the engine out of its control."""

_OPTION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}", re.IGNORECASE)
_DEPTH = 16
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


def bad_memory(amount: int | str | None) -> str | None:
    """Return why an amount of memory is not valid; None if it is."""
    if amount is None:
        return None
    try:
        memory.parse(amount)
    except ValueError as error:
        return str(error)
    return None


def bad_options(event: ModelLoadRequested) -> str | None:
    """Return why the options or variables of a load request are not valid for an engine."""
    for key, value in event.options.items():
        if not _OPTION.fullmatch(key):
            return f"options: {key!r} is no option of an engine; write it without dashes in front"
        if _reserved(key):
            return f"options: {key!r} is set by Nebula itself"
        whole = next((name for name in PARALLEL if name.startswith(option_name(key))), key)
        if whole != key and whole != option_name(key):
            return f"options: write {key!r} as {whole}: Nebula counts GPUs by it"
        if _too_deep(value):
            return f"options: the value of {key!r} is nested more than {_DEPTH} levels deep"
        items = value if isinstance(value, list) else []
        if any(isinstance(item, str) and item.startswith("-") for item in items):
            return f"options: an item of {key!r} begins with '-', so that it would be an option"
        if any("\0" in str(item) for item in (value if isinstance(value, list) else (value,))):
            return f"options: the value of {key!r} holds a NUL"
    for key, variable in event.env.items():
        if not _VARIABLE.fullmatch(key) or key.startswith("NEBULA_"):
            return f"env: {key!r} can't be set"
        if isinstance(variable, str) and "\0" in variable:
            return f"env: the value of {key!r} holds a NUL"
    return None


def _reserved(key: str) -> bool:
    """Return the option that vLLM's parser takes a key for: by its beginning, or its `no-` form."""
    option = option_name(key.partition(".")[0]).removeprefix("no-")
    return any(reserved.startswith(option) for reserved in RESERVED_OPTIONS)


def _too_deep(value: object) -> bool:
    """The limit is well below the depth of the stack, which differs between readers of the log."""
    level = [value]
    for _ in range(_DEPTH + 1):
        level = [
            inner
            for outer in level
            for inner in (
                outer.values()
                if isinstance(outer, dict)
                else outer
                if isinstance(outer, list)
                else ()
            )
        ]
        if not level:
            return False
    return True
