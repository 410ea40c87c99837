"""Spans of what an actor writes into the log: its decisions, and how long its work took.

An event and what followed from it within an hour are one trace, whichever processes wrote them: the
ids of a span follow from the sequences of its event and of the event that began it all.
"""

import time
from collections import OrderedDict

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode

from nebula.actors.actor import Actor
from nebula.events.record import Record
from nebula.events.showing import shown_text
from nebula.events.vocabulary import (
    AGGREGATE_OF,
    AdapterLoadFailed,
    DownloadFailed,
    DownloadProgressed,
    EngineFailed,
    Event,
    EventRejected,
    ModelUnschedulable,
)
from nebula.tracing.event_ids import context_of_event
from nebula.tracing.exporting import Tracing

ONE_TRACE = 3600.0
"""Seconds after an event within which what follows from it belongs to its trace."""

REMEMBERED = 10_000
"""Number of events whose trace is remembered."""

_FAILURES = (AdapterLoadFailed, DownloadFailed, EngineFailed, EventRejected, ModelUnschedulable)
_SECOND = 1_000_000_000


class EventTraces:
    """Makes a span of each event that an actor appends to the log."""

    def __init__(self, tracing: Tracing, actor: Actor) -> None:
        self._tracing = tracing
        self._actor = actor
        self._known: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """For each event the first event of its trace, and when (ns) it was recorded itself."""
        actor.projection.listen(self._folded)
        actor.log.on_appended = self._appended
        actor.traceparent_of = self.traceparent_of

    def traceparent_of(self, seq: int) -> str:
        """Return the context of an event's span, for what is done because of it."""
        context = self._context(seq)
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def _context(self, seq: int) -> SpanContext:
        root, _ = self._known.get(seq, (seq, 0))
        return context_of_event(self._actor.projection.state.cluster.id, seq, root)

    def _folded(self, record: Record) -> None:
        self._known[record.seq] = self._root(record.seq, record.cause, record.time), record.time
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _root(self, seq: int, cause: int | None, now: int) -> int:
        """Return the event with which the trace of an event begins; itself if it begins one."""
        root, when = self._known.get(cause or 0, (seq, 0))
        return root if now - when < ONE_TRACE * _SECOND else seq

    def _appended(self, seq: int, identity: str, event: Event, cause: int | None) -> None:
        if isinstance(event, DownloadProgressed):
            return
        now = time.time_ns()
        root = self._root(seq, cause, now)
        own = context_of_event(self._actor.projection.state.cluster.id, seq, root)
        kind = type(event).__name__
        parent, links = Context(), []
        attributes: dict[str, str | int] = {
            "nebula.event.seq": seq,
            "nebula.event.type": kind,
            f"nebula.{AGGREGATE_OF.get(kind, 'aggregate')}": identity,
        }
        if cause:
            attributes["nebula.cause.seq"] = cause
            before = self._context(cause)
            if root == seq:
                links = [Link(before)]
            else:
                parent = trace.set_span_in_context(NonRecordingSpan(before), parent)
        took = getattr(event, "seconds", 0.0)
        with self._tracing.ids.of(own):
            span = self._tracing.events.start_span(
                f"{kind} {identity}",
                parent,
                attributes=attributes,
                links=links,
                start_time=now - int(took * _SECOND),
            )
        reason = getattr(event, "reason", "")
        if reason:
            span.set_attribute("nebula.reason", shown_text(str(reason))[:1000])
        if isinstance(event, _FAILURES):
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)
