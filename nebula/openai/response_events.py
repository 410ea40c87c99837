"""The events of a response's stream as bytes. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html; OpenAI gives each event its type
twice, as a field of the stream and in its data.
"""

from collections.abc import Iterable

import msgspec

from nebula.events.reading import decoded
from nebula.events.stored_responses import Event
from nebula.openai import sse

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""Types of the events that end a stream."""

OPENING = frozenset({"response.created", "response.queued", "response.in_progress"})


def written(event: Event) -> bytes:
    """Return an event as it is sent."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def rewritten(event: bytes, data: Event) -> bytes:
    """Return an event with other data; what else it says, such as its id, stays."""
    lines = [line for line in event.split(b"\n") if line]
    kept = [line for line in lines if not line.startswith((b"event:", b"data:"))]
    return b"".join(line + b"\n" for line in kept) + written(data)


def numbered(events: Iterable[Event], first: int) -> list[Event]:
    """Return events with sequence numbers from `first` on."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events, first)]


def data_of(event: bytes) -> Event | None:
    """Return the data of an event; None if it has none that is understood."""
    read = decoded(sse.data_of(event) or b"", dict)
    return read if read is not None and isinstance(read.get("type"), str) else None
