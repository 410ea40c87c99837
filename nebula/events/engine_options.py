"""The options of an engine that Nebula itself reads, in vLLM's spelling. Pure."""

import re
from collections.abc import Mapping

from nebula.events.values import OptionValue

PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size")
"""Their product is the number of GPUs of one node that an engine takes."""

_LENGTH = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([kKmMgG]?)")
_UNITS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}


def option_name(key: str) -> str:
    """Return an option's key as on vLLM's command line: `max_model_len` -> `max-model-len`."""
    return key.replace("_", "-").lower() if "." not in key else key


def by_name(options: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """Return options by their keys as on vLLM's command line."""
    return {option_name(key): value for key, value in options.items()}


def option(options: Mapping[str, OptionValue], name: str) -> OptionValue:
    """Return an option's value, however its key is spelled; None if it is not set."""
    if not options:
        return None
    for key, value in options.items():
        if option_name(key) == name:
            return value
    return None


def devices_needed(options: Mapping[str, OptionValue]) -> int:
    """Return how many GPUs of one node a replica takes. Raise ValueError if it is not a number."""
    needed = 1
    if options:
        for name in PARALLEL:
            needed *= _size(name, option(options, name))
    return needed


def _size(name: str, value: OptionValue) -> int:
    if value is None:
        return 1
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise ValueError(f"{name} is {value!r}: write a whole number from 1 to 9999")
    return int(text)


def context(options: Mapping[str, OptionValue]) -> int | None:
    """Return the tokens that `max-model-len` allows a request; None if it sets no limit."""
    match = _LENGTH.fullmatch(str(option(options, "max-model-len")).strip())
    return int(float(match[1]) * _UNITS[match[2]]) if match is not None else None
