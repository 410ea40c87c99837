"""The ids of an event's span follow from the event, so that other processes' spans can name it.

The span of a decision is a child of its cause's span, which another process has made or will make.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags


def context_of_event(cluster: str, seq: int, root: int) -> SpanContext:
    """Return the context of the span of an event. `root`: the event that its trace begins with."""
    trace = _number(f"nebula trace {cluster} {root}", 16)
    span = _number(f"nebula event {cluster} {seq}", 8)
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1


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
