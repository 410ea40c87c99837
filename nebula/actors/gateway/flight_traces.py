"""The spans of a gateway's requests: one for each, and one for each attempt at it.

A gateway without traces has none of this. With traces `TracedGateway` stands in its place, and
requests are sent with the context of their attempt's span, from which routers and engines go on.
"""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from nats.errors import Error as NatsError
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.core import IDLE
from nebula.actors.gateway.delivery import Delivery
from nebula.actors.gateway.in_flight import Send
from nebula.actors.gateway.leasing import Direct
from nebula.actors.gateway.not_served import AlreadyInFlight, NotServed
from nebula.actors.gateway.sending import Sending
from nebula.events.failures import Failure, words
from nebula.events.inference import Request
from nebula.events.state import NameBinding
from nebula.store.connection import Connection
from nebula.tracing import gen_ai
from nebula.tracing.carried import context_of, with_span

ATTEMPT, REPLICA, ROUTER = "nebula.attempt", "nebula.replica", "nebula.router"
CONTINUES, REQUEST, MODEL = "nebula.continues", "nebula.request.id", "nebula.model"
LEASED, CANDIDATES = "nebula.leased", "nebula.candidates"
STATE, QUEUED = "nebula.state.seq", "nebula.queue.duration"
ERROR = "error.type"


class _Flight(Struct):
    """The spans of a request in flight; `own`: its span ends with it, as no client's does."""

    span: Span
    own: bool
    attempt: Span


class TracedSending(Sending):
    """Sends each attempt with the context of a span of its own."""

    def __init__(self, inner: Sending, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer
        self._flights: dict[str, _Flight] = {}

    @property
    def under_way(self) -> int:
        """The number of requests whose spans have not ended."""
        return len(self._flights)

    def begin(self, request: Request) -> Request:
        """Return a request that carries the context of its span: so do its attempts, and log lines.

        The span is that of its HTTP exchange, or a new one.
        """
        if request.id in self._flights:
            return request
        span, own = trace.get_current_span(), False
        if not span.get_span_context().is_valid:
            own = True
            name = f"{gen_ai.operation(request.path)} {request.model}"
            span = self._tracer.start_span(name, context_of(request.fields), SpanKind.INTERNAL)
            if span.is_recording():
                body = gen_ai.decoded(request.body)
                span.set_attributes(gen_ai.of_request(request.path, body))
        span.set_attribute(REQUEST, request.id)
        span.set_attribute(MODEL, request.model)
        self._flights[request.id] = _Flight(span, own, trace.INVALID_SPAN)
        return replace(request, fields=with_span(request.fields, span))

    def send(self, request: Request, router: str, direct: Direct | None = None) -> None:
        """Send an attempt: `direct`ly, else to a router, "" for any. Raise NatsError.

        What is sent beside a client's request, such as for the text of tokens, gets no span.
        """
        flight = self._flights.get(request.id)
        if flight is None:
            self._inner.send(request, router, direct)
            return
        self._end_attempt(flight, request.avoid)
        flight.attempt = attempt = self._tracer.start_span(
            f"attempt {request.attempt}",
            trace.set_span_in_context(flight.span),
            SpanKind.CLIENT,
            {ATTEMPT: request.attempt, MODEL: request.model},
        )
        if attempt.is_recording():
            if router:
                attempt.set_attribute(ROUTER, router)
            if request.continues:
                attempt.set_attribute(CONTINUES, request.continues)
        try:
            traced = replace(request, fields=with_span(request.fields, attempt))
            self._inner.send(traced, router, direct)
        except NatsError as error:
            attempt.set_status(Status(StatusCode.ERROR, str(error)))
            attempt.end()
            raise
        if direct is not None and attempt.is_recording():
            self._routed(traced, attempt, direct)

    def abandon(self, identity: str, why: str) -> None:
        """End the spans of a request that was not sent."""
        flight = self._flights.pop(identity, None)
        if flight is not None:
            flight.attempt.end()
            if flight.own:
                flight.span.set_status(Status(StatusCode.ERROR, why))
                flight.span.end()

    def post(self, subject: str, header: bytes, body: bytes) -> None:
        """Publish a message that may get lost."""
        self._inner.post(subject, header, body)

    def copy(self, request: Request) -> None:
        """Send a request whose answer is not read. Raise NatsError."""
        span = trace.get_current_span()
        fields = with_span(request.fields, span) if span.get_span_context().is_valid else ()
        self._inner.copy(replace(request, fields=fields))

    def drop(self, request: Request, below: int, reason: bytes = b"") -> None:
        """Have every router and engine end the attempts of a request below a number."""
        self._inner.drop(request, below, reason)

    def failed(self, identity: str, failure: str) -> None:
        """Note why the attempt that is under way has failed."""
        flight = self._flights.get(identity)
        if flight is not None and flight.attempt.is_recording():
            _fail(flight.attempt, failure)

    def ended(self, delivery: Delivery) -> None:
        """End the spans of a request that has ended."""
        flight = self._flights.pop(delivery.id, None)
        if flight is None:
            return
        answer = delivery.flight.answer
        status, failure = delivery.told
        if flight.attempt.is_recording() and failure:
            _fail(flight.attempt, failure)
        self._end_attempt(flight, answer.replica)
        span = flight.span
        if not span.is_recording():
            return
        tokens = answer.tokens
        if tokens is not None and (tokens.prompt or tokens.completion):
            span.set_attribute(gen_ai.INPUT_TOKENS, tokens.prompt)
            span.set_attribute(gen_ai.OUTPUT_TOKENS, tokens.completion)
            if tokens.cached:
                span.set_attribute(gen_ai.CACHED_TOKENS, tokens.cached)
        if failure:
            _fail(span, failure)
        if flight.own:
            if status >= 400:
                span.set_attribute(ERROR, str(status))
            span.end()

    def _routed(self, request: Request, attempt: Span, direct: Direct) -> None:
        """Make the span that a router makes of its part: here the gateway has chosen."""
        self._tracer.start_span(
            f"route {direct.model}",
            trace.set_span_in_context(attempt),
            SpanKind.INTERNAL,
            {
                ROUTER: direct.router,
                LEASED: True,
                MODEL: direct.model,
                REPLICA: direct.replica,
                REQUEST: request.id,
                ATTEMPT: request.attempt,
                STATE: direct.routed.seq,
                CANDIDATES: len(direct.routed.candidates),
                QUEUED: 0.0,
            },
        ).end()

    def _end_attempt(self, flight: _Flight, replica: str) -> None:
        attempt = flight.attempt
        if attempt.is_recording() and replica:
            attempt.set_attribute(REPLICA, replica)
        attempt.end()


class TracedGateway(Gateway):
    """A gateway that makes spans of what it does."""

    def __init__(self, tracer: Tracer, connection: Connection, identity: str, **how: Any) -> None:
        super().__init__(connection, identity, **how)
        self.sending = self.traced = TracedSending(self.sending, tracer)

    def ask(
        self, request: Request, binding: NameBinding, *, idle: float = IDLE, usage: str = ""
    ) -> Delivery:
        """Send a request; `usage` as in Delivery. Raise NotServed if it can't be served."""
        try:
            return super().ask(self.traced.begin(request), binding, idle=idle, usage=usage)
        except AlreadyInFlight:
            raise
        except NotServed as error:
            self.traced.abandon(request.id, str(error))
            raise

    def _send(self, send: Send) -> None:
        if send.after:
            self.traced.failed(send.id, send.after)
        super()._send(send)

    def _release(self, delivery: Delivery) -> None:
        self.traced.ended(delivery)
        super()._release(delivery)


def _fail(span: Span, failure: str) -> None:
    span.set_attribute(ERROR, failure)
    if failure != Failure.TAKEN_BACK:
        span.set_status(Status(StatusCode.ERROR, words(failure).client))
