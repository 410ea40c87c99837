"""What a key may do, in words."""

from nebula.events.key_events import KeyChanged, KeyIssued
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
