"""The ids of an event's span follow from the event, so that other spans can link to it.

So the span of a decision links to that of its cause, which another process has made or will make.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags


def context_of_event(cluster: str, seq: int) -> SpanContext:
    """Return the context of the span of an event."""
    digest = hashlib.sha256(f"nebula event {cluster} {seq}".encode()).digest()
    trace, span = int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])
    return SpanContext(trace or 1, span or 1, is_remote=True, trace_flags=TraceFlags(1))


class EventIds(RandomIdGenerator):
    """Makes random ids, but uses those of an event for its span."""

    _next: SpanContext | None = None

    def generate_trace_id(self) -> int:
        """Return the id of a trace."""
        return super().generate_trace_id() if self._next is None else self._next.trace_id

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        return super().generate_span_id() if self._next is None else self._next.span_id

    @contextmanager
    def of(self, event: SpanContext) -> Iterator[None]:
        """Use the ids of an event for the one span that is begun meanwhile."""
        self._next = event
        try:
            yield
        finally:
            self._next = None
