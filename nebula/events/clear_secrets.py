"""Secrets in clear in what operators ask for, which the log would keep for ever. Pure.

What Nebula masks where it is shown is refused where it is asked for: there it is the name of a
secret instead (ADR 62). The mask is refused in the same words as what it stands for, so that a log
means the same with and without its secrets; only a token amid other text leaves no trace there.
"""

from functools import lru_cache

import msgspec

from nebula.events.engine_options import option_name
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRequested,
    ModelLoadRequested,
)
from nebula.events.key_events import KeyChanged, KeyIssued
from nebula.events.masking import MASK
from nebula.events.showing import without_secrets
from nebula.events.values import SecretReference
from nebula.events.vocabulary import Event

_LOOKS = (
    f"holds what looks like a secret in clear, or the {MASK} that stands for one, and the log "
    "keeps it for ever: put the secret on the nodes, and give its name instead"
)
_TEXT = (
    f"holds what looks like a secret in clear, or the {MASK} that stands for one, and the log "
    "keeps it for ever: leave it out"
)
WRITTEN: frozenset[type] = frozenset(
    (
        *(ModelLoadRequested, AdapterLoadRequested, AdapterUnloadRequested, AliasRequested),
        *(KeyIssued, KeyChanged),
    )
)
"""What operators write texts in. Nothing keeps a key from being revoked."""

_HELD_APART = frozenset(("source", "adapters", "env", "options", "hash", "prefix"))
"""Fields for which there is a way to give a secret, and what is known of a key by design."""

_SHORT = 256
"""Characters of the longest text of which is remembered whether it holds a secret."""

_LIKELY = "a1B2c3D4e5F6g7H8"
"""What is put in place of a mask to see whether it stands where a secret would."""


def in_clear(event: Event) -> str | None:
    """Return why a request is refused: a secret in clear in it, or the mask of one; else None."""
    if type(event) not in WRITTEN:
        return None
    found = None
    if isinstance(event, ModelLoadRequested):
        sources = (event.source, *(each.source for each in event.adapters))
        found = _variables(event) or _options(event) or _sources(sources)
    elif isinstance(event, AdapterLoadRequested):
        found = _sources((event.source,))
    return found or _texts(event)


def _variables(event: ModelLoadRequested) -> str | None:
    for name, value in event.env.items():
        if isinstance(value, SecretReference):
            if holds_secret("", value.secret):
                return f"env: {name} {_LOOKS} ({_load(name)})"
        elif holds_secret(name, value):
            return f'env: {name} {_LOOKS}, {{"secret": "NAME"}} ({_load(name)})'
    return None


def _options(event: ModelLoadRequested) -> str | None:
    for name, value in event.options.items():
        if holds_secret(name, value):
            variable = "HF_TOKEN" if option_name(name) == "hf-token" else "VARIABLE"
            return f"options: {name} {_LOOKS}, for a variable of the engine ({_load(variable)})"
    return None


def _texts(event: Event) -> str | None:
    """Return why another field of a request is refused, such as a name or a label."""
    for name in event.__struct_fields__:
        value = getattr(event, name) if name not in _HELD_APART else ""
        if not value or isinstance(value, int | float):
            continue
        short = isinstance(value, str) and len(value) <= _SHORT
        if _short_secret(value) if short else holds_secret("", msgspec.to_builtins(value)):
            return f"{name}: it {_TEXT}"
    return None


@lru_cache(maxsize=4096)
def _short_secret(text: str) -> bool:
    """As `holds_secret`, which takes longer than all else in the fold: names come again."""
    return holds_secret("", text)


def _sources(sources: tuple[str, ...]) -> str | None:
    for each in sources:
        if "://" in each and holds_secret("", each):
            return f"source: it {_LOOKS}, for a variable of the engine ({_load('VARIABLE')})"
    return None


def _load(variable: str) -> str:
    return f"nebula load --secret NAME:{variable}"


def holds_secret(name: str, value: object) -> bool:
    """Return whether the value of an option or variable is, or contains, a secret or its mask."""
    return _masked({name: value}) or (MASK in repr(value) and _masked({name: _filled(value)}))


def _masked(value: object) -> bool:
    return without_secrets(value) is not value


def _filled(value: object) -> object:
    """Return a value with what is surely a secret in place of each mask."""
    match value:
        case str():
            return f"hf_{_LIKELY}" if value == MASK else value.replace(MASK, _LIKELY)
        case dict():
            return {key: _filled(each) for key, each in value.items()}
        case list() | tuple():
            return [_filled(each) for each in value]
        case _:
            return value
