"""The spans of events: whichever process writes an event, its span finds its cause's."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nebula.actors.actor import Actor
from nebula.actors.event_traces import ONE_TRACE, REMEMBERED, EventTraces
from nebula.events.record import Record
from nebula.events.trace_context import trace_id
from nebula.events.vocabulary import (
    DownloadProgressed,
    EngineFailed,
    EngineReady,
    Event,
    ModelAssigned,
)
from nebula.store.connection import Connection
from nebula.tracing.event_ids import EventIds
from nebula.tracing.exporting import Tracing

pytestmark = pytest.mark.anyio

ASSIGNED = ModelAssigned(1, ())
NOW = 1_700_000_000 * 10**9


class Process:
    """A process that folds and appends events, and makes spans."""

    def __init__(self) -> None:
        self.exported = InMemorySpanExporter()
        ids = EventIds()
        provider = TracerProvider(id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(self.exported))
        tracer = provider.get_tracer("test")
        self.actor = Actor(Connection("nats://127.0.0.1:1", "test"))
        self.traces = EventTraces(Tracing(tracer, tracer, ids), self.actor)

    def fold(self, seq: int, cause: int | None = None, time: int = NOW) -> None:
        record = Record(seq, time, "s", "model", "m", ASSIGNED, cause=cause)
        for listener in self.actor.projection._listeners:
            listener(record)

    def append(self, seq: int, event: Event = ASSIGNED, cause: int | None = None) -> ReadableSpan:
        assert self.actor.log.on_appended is not None
        self.actor.log.on_appended(seq, "m", event, cause)
        span: ReadableSpan = self.exported.get_finished_spans()[-1]
        return span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOW)


async def test_what_two_processes_write_because_of_one_event_is_one_trace(clock: None) -> None:
    one, other = Process(), Process()
    for process in (one, other):
        process.fold(1)
        process.fold(2, cause=1)
    first = one.append(2, cause=1)
    second = other.append(3, EngineReady(seconds=2.5), cause=2)
    assert first.context is not None
    assert second.context is not None
    assert second.parent is not None
    assert second.parent.span_id == first.context.span_id
    assert second.context.trace_id == first.context.trace_id
    assert second.end_time == NOW
    assert second.start_time == NOW - 2_500_000_000
    assert second.attributes is not None
    assert second.attributes["nebula.event.seq"] == 3
    assert second.attributes["nebula.cause.seq"] == 2
    assert second.attributes["nebula.replica"] == "m"
    told = trace_id(other.traces.traceparent_of(2))
    assert told == f"{first.context.trace_id:032x}"


async def test_what_follows_much_later_begins_a_trace_with_a_link_to_its_cause(
    clock: None,
) -> None:
    process = Process()
    process.fold(1, time=NOW - int(ONE_TRACE * 10**9) - 1)
    span = process.append(2, cause=1)
    assert span.parent is None
    (link,) = span.links
    assert link.context == process.traces._context(1)


async def test_a_cause_that_is_not_known_is_linked_to(clock: None) -> None:
    span = Process().append(2, cause=1)
    assert span.parent is None
    assert len(span.links) == 1


async def test_a_failure_says_why_without_secrets(clock: None) -> None:
    failed = EngineFailed("no room --hf-token=hf_abcdefghijklmnop")
    span = Process().append(2, failed)
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["nebula.reason"] == "no room --hf-token=***"


async def test_progress_has_no_spans_and_what_is_remembered_is_bounded(clock: None) -> None:
    process = Process()
    process.append(1)
    assert process.actor.log.on_appended is not None
    process.actor.log.on_appended(2, "n", DownloadProgressed("s", 1, 2), None)
    assert len(process.exported.get_finished_spans()) == 1
    for seq in range(REMEMBERED + 10):
        process.fold(seq + 1)
    assert len(process.traces._known) == REMEMBERED
