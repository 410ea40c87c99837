"""Faults that the prompt of a single request orders, if the engine is configured to obey.

Its words are orders where they begin with ``!``: ``!status=500`` is answered with that HTTP status,
``!retry-after=7`` goes with it as a header, ``!exit=1`` ends the engine's process with that code,
``!sick`` makes the engine say of itself that it is dead, as vLLM does once its core has ended, and
``!break`` ends a stream with an error event after its first token. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Orders(msgspec.Struct, frozen=True):
    """The orders in a prompt."""

    status: int | None = None
    retry_after: str = msgspec.field(default="", name="retry-after")
    exit: int | None = None
    sick: bool = False
    breaks: bool = msgspec.field(default=False, name="break")


_NONE = Orders()


def orders(words: Iterable[str]) -> Orders:
    """Return the orders among words; other words are ignored."""
    found: dict[str, str] = {}
    for word in words:
        if word.startswith("!"):
            name, _, value = word[1:].partition("=")
            found[name] = value or "true"
    if not found:
        return _NONE
    try:
        return msgspec.convert(found, Orders, strict=False)
    except msgspec.ValidationError:
        return _NONE
