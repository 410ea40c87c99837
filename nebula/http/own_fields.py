"""Nebula's own header fields: reads them, and refuses values that are not valid. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines

_STATE = "fields"
"""Where the state of a scope has its header fields by name: they are read in several places."""

_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_ONCE = (b"x-request-timeout", b"idempotency-key", b"x-resumable")
_YES = (b"1", b"true", b"yes")
_NO = (b"0", b"false", b"no")


def by_name(scope: Any) -> dict[bytes, bytes]:
    """Return the header fields of a request of ASGI by name: the last of those with one name."""
    lines = scope["headers"]
    if type(lines) is FieldLines:
        if lines.named is None:
            lines.named = dict(lines)
        return lines.named
    state = scope.setdefault("state", {})
    found: dict[bytes, bytes] | None = state.get(_STATE)
    if found is None:
        found = state[_STATE] = dict(lines)
    return found


def fields(scope: Any, once: tuple[bytes, ...] = _ONCE) -> dict[bytes, bytes]:
    """Return header fields by name. Raise ApiError 400 if one of `once` [Nebula's] occurs twice."""
    found, came = by_name(scope), scope["headers"]
    if len(found) < len(came):
        names = [name for name, _ in came]
        for name in once:
            if names.count(name) > 1:
                text = f"{_shown(name)} may occur once, and occurred {names.count(name)} times"
                raise ApiError(400, text)
    return found


def time_limit(fields: Mapping[bytes, bytes]) -> float | None:
    """Return a request's time limit in seconds. Raise ApiError 400."""
    value = fields.get(b"x-request-timeout")
    if value is None:
        return None
    if not _SECONDS.fullmatch(value) or not float(value):
        raise ApiError(400, "X-Request-Timeout must be seconds, more than 0, such as 30 or 0.5")
    return float(value)


def idempotency_key(fields: Mapping[bytes, bytes]) -> str | None:
    """Return the key by which a repeated request is recognised. Raise ApiError 400."""
    value = fields.get(b"idempotency-key")
    if value == b"":
        raise ApiError(400, "Idempotency-Key must not be empty")
    return None if value is None else value.decode("latin-1")


def kept(fields: Mapping[bytes, bytes]) -> str | None:
    """Return the key under which an answer is resumable ("" for its own id); None if it is not.

    Raise ApiError 400.
    """
    if b"x-resumable" not in fields and b"idempotency-key" not in fields:
        return None
    value = fields.get(b"x-resumable", b"no").lower()
    if value not in _YES and value not in _NO:
        raise ApiError(400, "X-Resumable must be true or false (or 1, yes, 0, no)")
    key = idempotency_key(fields)
    return key if key is not None else "" if value in _YES else None


def _shown(name: bytes) -> str:
    return "-".join(part.capitalize() for part in name.decode().split("-"))
