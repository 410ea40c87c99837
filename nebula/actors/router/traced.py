"""The spans of a router's part in a request: that it was sent to a replica, and how it queued.

They are made of what the router writes into the message: a router without traces does nothing more
than it did.
"""

import time
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from nebula.actors.actor import Actor
from nebula.actors.router.dispatch import Post
from nebula.events import envelope, subjects
from nebula.events.record import parse_headers
from nebula.events.trace_context import PARENT
from nebula.tracing.carried import context_of

_TO_REPLICAS = subjects.replica_requests("", "").removesuffix(".")
LEAST_QUEUED = 0.001
"""Seconds in a queue from which on they have a span of their own."""


def traced_posting(tracer: Tracer) -> Callable[[Post, Actor], Post]:
    """Return what makes of a function that publishes another, which makes spans too."""

    def traced(post: Post, router: Actor) -> Post:
        def posting(subject: str, header: bytes, body: bytes) -> None:
            post(subject, header, body)
            if subject.startswith(_TO_REPLICAS):
                _sent(tracer, router, subject, header)

        return posting

    return traced


def _sent(tracer: Tracer, router: Actor, subject: str, header: bytes) -> None:
    headers = parse_headers(header)
    request = envelope.read_request("", headers, b"")
    routed = envelope.read_routed(headers)
    if request is None or routed is None:
        return
    model, replica = subject.split(".")[-2:]
    now = time.time_ns()
    came = now - int(routed.waited * 1e9)
    span = tracer.start_span(
        f"route {model}",
        context_of(request.fields),
        SpanKind.CONSUMER,
        {
            "nebula.router": routed.router,
            "nebula.model": model,
            "nebula.replica": replica,
            "nebula.request.id": request.id,
            "nebula.attempt": request.attempt,
            "nebula.state.seq": routed.seq,
            "nebula.candidates": len(routed.candidates),
            "nebula.queue.duration": routed.waited,
        },
        start_time=came,
    )
    if span.is_recording() and routed.waited >= LEAST_QUEUED:
        queue = tracer.start_span(
            f"queue {model}", trace.set_span_in_context(span), start_time=came
        )
        _because(queue, router, replica, came)
        queue.end(now)
    span.end(now)


def _because(queue: Span, router: Actor, replica: str, came: int) -> None:
    """Link to what ended a wait: the event that made a replica ready after the request came."""
    known = router.projection.state.replicas.get(replica)
    if known is None or known.since < came:
        return
    queue.set_attribute("nebula.cause.seq", known.changed)
    event = trace.get_current_span(context_of(((PARENT, router.traceparent_of(known.changed)),)))
    queue.add_link(event.get_span_context())
