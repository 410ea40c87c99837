"""Limits of an intent's size, in total and for each of its lists. Pure."""

from functools import cache

import msgspec

from nebula.events.vocabulary import INTENTS, Event

INTENT = 64 * 1024
"""Largest intent in bytes, as JSON in the log."""

COUNTS = {
    "options": 256,
    "env": 256,
    "labels": 64,
    "apart": 256,
    "adapters": 256,
    "devices": 1024,
    "fallback": 16,
}
"""Largest number of items in each field of an intent."""


def oversized(event: Event) -> str | None:
    """Return why an intent is too large, naming the field; None for any other event."""
    if type(event).__name__ not in INTENTS:
        return None
    for field, most in _counted(type(event)):
        count = len(getattr(event, field))
        if count > most:
            return f"{field}: {count:,} are given, and {most} are the most"
    size = len(msgspec.json.encode(event))
    if size <= INTENT:
        return None
    sizes = {
        field: len(msgspec.json.encode(getattr(event, field))) for field in event.__struct_fields__
    }
    largest = max(sizes, key=lambda field: sizes[field])
    return (
        f"{largest}: {sizes[largest]:,} of the {size:,} bytes of this request, and "
        f"{INTENT:,} are the most"
    )


@cache
def _counted(kind: type[Event]) -> tuple[tuple[str, int], ...]:
    """Return the fields of a type of event that have a largest number of items, and that number."""
    fields = kind.__struct_fields__
    return tuple([(field, most) for field, most in COUNTS.items() if field in fields])
