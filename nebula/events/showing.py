"""What people and programs are shown: without secrets and without control characters. Pure.

The log and the state keep values unchanged; everything that leaves them for people, for an answer
or for a file passes through here.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from nebula.events.masking import MASK, is_secret, masked, suspect
from nebula.events.plain_text import plain
from nebula.events.reading import UNREADABLE
from nebula.events.record import Entry

T = TypeVar("T")

_SHORT = 128
"""Longest text whose result is remembered, in characters."""

_DEEPEST = 60
"""Levels of nested values that are shown; deeper values are hidden as a whole."""


def shown_text(text: str) -> str:
    """Return a text without secrets and control characters."""
    return _short(text) if len(text) <= _SHORT else masked(plain(text))


@lru_cache(maxsize=16_384)
def _short(text: str) -> str:
    """Cache the results for short texts: ids, names, words."""
    return masked(plain(text))


def shown(value: T) -> T:
    """Return a value as it may be shown; the same object if nothing is hidden."""
    return _through(value, shown_text, _DEEPEST)  # type: ignore[return-value]


def without_secrets(value: T) -> T:
    """Return a value with MASK in place of secrets, unchanged apart from that."""
    return _through(value, masked, _DEEPEST)  # type: ignore[return-value]


def with_texts(value: T, text: Callable[[str], str]) -> T:
    """Return a value whose texts are as `text` makes them, without secrets."""
    return _through(value, text, _DEEPEST)  # type: ignore[return-value]


def entry_without_secrets(entry: Entry) -> Entry:
    """Return an entry of the log with MASK in place of secrets; the same object if it has none."""
    if not suspect(entry.body.decode("latin-1")):
        return entry
    try:
        value = msgspec.json.decode(entry.body)
    except UNREADABLE:
        text = entry.body.decode("latin-1")
        found = masked(text)
        return entry if found == text else replace(entry, body=found.encode("latin-1"))
    made = without_secrets(value)
    return entry if made is value else replace(entry, body=msgspec.json.encode(made))


def secrets_of(options: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the options or variables whose values contain a secret."""
    return tuple(
        name
        for name, value in sorted(options.items())
        if is_secret(name, value) or without_secrets(value) is not value
    )


def _through(value: object, text: Callable[[str], str], depth: int) -> object:
    """Apply `text` to all texts in a value; a value under a secret's name becomes MASK."""
    if isinstance(value, str):
        made = text(value)
        return value if made == value else made
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if not value:
        return value
    if depth == 0:
        return MASK
    if type(value) is dict or isinstance(value, Mapping):
        return _mapping(value, text, depth)
    if isinstance(value, tuple | list):
        items = [_through(each, text, depth - 1) for each in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    if isinstance(value, Struct):
        changed = {}
        for field in value.__struct_fields__:
            old = getattr(value, field)
            new = _through(old, text, depth - 1)
            if new is not old:
                changed[field] = new
        return replace(value, **changed) if changed else value
    return value


def _mapping(
    value: Mapping[object, object],
    text: Callable[[str], str],
    depth: int,
    *,
    variables: bool = False,
) -> Mapping[object, object]:
    """`variables`: these are variables of an engine, which may be secrets by name."""
    made: dict[object, object] = {}
    changed = False
    for key, old in value.items():
        name = text(key) if isinstance(key, str) else key
        if variables and isinstance(old, Mapping) and names_a_secret(old):
            new: object = old if text(old["secret"]) == old["secret"] else MASK
        elif isinstance(key, str) and is_secret(key, old):
            new = MASK
        elif key == "env" and isinstance(old, Mapping) and depth > 1:
            new = _mapping(old, text, depth - 1, variables=True)
        else:
            new = _through(old, text, depth - 1)
        changed = changed or new is not old or name != key
        made[name] = new
    return made if changed else value


def names_a_secret(value: Mapping[Any, Any]) -> bool:
    """Return whether a variable's value, as JSON, is a secret by its name."""
    return value.keys() == {"secret"} and isinstance(value["secret"], str)
