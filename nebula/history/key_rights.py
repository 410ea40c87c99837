"""What a key may do: in words, and as the event that changes a part of it. Pure."""

from collections.abc import Mapping

import msgspec

from nebula.events.key import Key
from nebula.events.key_events import KeyChanged, KeyIssued
from nebula.events.key_text import NewKey
from nebula.events.usage_limits import limit_texts


def key_rights(event: KeyIssued | KeyChanged) -> str:
    """Return the rights that an event gives a key, on one line."""
    parts = [f"for {event.name}"] if event.name else []
    parts.append(f"scopes {', '.join(event.scopes)}")
    if event.models != ("*",):
        parts.append(f"models {', '.join(event.models) or 'none'}")
    if event.tenant:
        parts.append(f"tenant {event.tenant}")
    if event.expires is not None:
        parts.append(f"until {event.expires.isoformat()}")
    return ", ".join([*parts, *limit_texts(event.limits)])


def with_changes(key: Key, fields: Mapping[str, object]) -> KeyChanged:
    """Return the event that changes these fields of a key and leaves all others as they are.

    Raise ValidationError for a field that a key does not have, or a value that it can't have.
    """
    present: dict[str, object] = {
        "name": key.name,
        "scopes": key.scopes,
        "models": key.models,
        "tenant": key.tenant,
        "expires": key.expires or None,
        "limits": msgspec.to_builtins(key.limits),
    }
    return msgspec.convert({**present, **fields}, KeyChanged)


def rotated(key: Key, new: NewKey, overlap: float) -> KeyChanged:
    """Return the event that replaces a key by a new one. `overlap`: seconds that both are valid.

    Raise ValidationError for a time that is too long.
    """
    return with_changes(key, {"hash": new.hash, "prefix": new.prefix, "overlap": overlap})
