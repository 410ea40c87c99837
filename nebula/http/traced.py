"""The span of each request to a path that engines answer: from its first byte to its last."""

import time
from typing import Any, cast

from litestar.types import HTTPScope, Message, Receive, Send
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from nebula.events.endpoints import Endpoint
from nebula.events.memory import MIB
from nebula.http.inference import InferenceRoutes
from nebula.tracing import gen_ai
from nebula.tracing.carried import context_of

_CARRIED = (b"traceparent", b"tracestate")

LARGEST = MIB
"""Bytes of a request's body that are looked at for its attributes."""


class TracedRoutes(InferenceRoutes):
    """The paths that engines answer, with a span for each request."""

    def __init__(self, tracer: Tracer, prompts: bool, *around: Any) -> None:
        """`prompts`: with what clients and models say."""
        super().__init__(*around)
        self._tracer, self._prompts = tracer, prompts

    async def _infer(
        self, endpoint: Endpoint, scope: HTTPScope, receive: Receive, send: Send
    ) -> None:
        carried = tuple(
            (name.decode(), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name in _CARRIED
        )
        span = self._tracer.start_span(
            gen_ai.operation(endpoint.path),
            context_of(carried),
            SpanKind.SERVER,
            {**gen_ai.of_request(endpoint.path, None), "url.path": endpoint.path},
        )
        with trace.use_span(span, end_on_exit=True):
            if not span.is_recording():
                await super()._infer(endpoint, scope, receive, send)
                return
            span.set_attribute("http.request.method", scope["method"])
            told = _Exchange(span, endpoint, receive, send, prompts=self._prompts)
            try:
                await super()._infer(endpoint, scope, told.receive, told.send)
            finally:
                told.end()


class _Exchange:
    """What a client and the gateway say to each other in one request."""

    def __init__(
        self, span: Span, endpoint: Endpoint, receive: Receive, send: Send, *, prompts: bool
    ) -> None:
        self._span = span
        self._endpoint = endpoint
        self._receive = receive
        self._send = send
        self._prompts = prompts
        self._began = time.monotonic()
        self._body: list[bytes] = []
        self._size = 0
        self._answer = gen_ai.AnswerReader(prompts=prompts)
        self._first = True

    async def receive(self) -> Any:
        """Receive an event, and keep what it has of the body."""
        event = await self._receive()
        if event["type"] == "http.request" and self._size <= LARGEST:
            body = event["body"]
            self._size += len(body)
            self._body.append(body)
            if not event["more_body"]:
                self._came()
        return event

    async def send(self, event: Message) -> None:
        """Send an event, and note what it tells of the answer."""
        if event["type"] == "http.response.start":
            status = event["status"]
            self._span.set_attribute("http.response.status_code", status)
            if status >= 400:
                self._span.set_attribute("error.type", str(status))
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
        elif event["type"] == "http.response.body" and event["body"]:
            if self._first:
                self._first = False
                waited = round(time.monotonic() - self._began, 6)
                self._span.set_attribute(gen_ai.FIRST_CHUNK, waited)
            self._answer.take(event["body"])
        await self._send(event)

    def end(self) -> None:
        """Set what the answer told."""
        self._span.set_attributes(self._answer.attributes)
        if self._prompts and self._answer.said:
            self._span.set_attribute(
                gen_ai.OUTPUT_MESSAGES, gen_ai.output_messages(self._answer.said)
            )

    def _came(self) -> None:
        body, self._body = b"".join(self._body), []
        fields = gen_ai.decoded(body) if self._size <= LARGEST else None
        if fields is None:
            return
        attributes = gen_ai.of_request(self._endpoint.path, fields)
        self._span.set_attributes(attributes)
        if gen_ai.REQUEST_MODEL in attributes:
            model = cast("str", attributes[gen_ai.REQUEST_MODEL])
            self._span.update_name(f"{attributes[gen_ai.OPERATION]} {model}")
        if self._prompts:
            self._span.set_attribute(gen_ai.INPUT_MESSAGES, gen_ai.input_messages(fields))
