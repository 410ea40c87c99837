"""Decodes bytes from elsewhere: each function returns a value or None, whatever they hold. Pure."""

from typing import TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""All that msgspec and int() raise for bytes that are not valid: broken JSON, a different
structure, not UTF-8, nested too deep, or a number with thousands of digits."""

_LONGEST = 19
"""Digits of the largest number in Nebula; int() raises for thousands of them."""


def decoded(body: bytes, kind: type[T]) -> T | None:
    """Return the value of a type that JSON holds; None if it is not valid. Never raises."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE:
        return None


def number(text: bytes) -> int | None:
    """Return the whole number in decimal digits; None for anything else. Never raises."""
    return int(text) if text.isdigit() and len(text) <= _LONGEST else None


def last_token(subject: bytes) -> str:
    """Return the last token of a NATS subject, which may be any bytes. Never raises."""
    return subject.rpartition(b".")[2].decode("utf-8", "replace")
