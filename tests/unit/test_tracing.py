"""Traces: where they go, what is told of a request, and that without them nothing is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import Error as NatsError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nebula.actors.actor import Actor
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.delivery import Delivery
from nebula.actors.gateway.flight_traces import TracedSending
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.actors.gateway.leasing import Direct
from nebula.actors.gateway.sending import Sending
from nebula.actors.router.traced import traced_posting
from nebula.cli.gateway import gateway
from nebula.cli.tracing_options import TraceOptions, router_posting
from nebula.events import envelope, subjects
from nebula.events.failures import Failure
from nebula.events.inference import ReplicaCandidate, Request, Routed
from nebula.events.state import NameBinding
from nebula.store.connection import Connection
from nebula.tracing import gen_ai
from nebula.tracing.carried import context_of, with_span
from nebula.tracing.settings import TraceSettings, endpoint_of, found

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")
URL = "http://collector:4318/v1/traces"

PROCESSES = "nebula.cli.gateway, nebula.cli.router, nebula.cli.node, nebula.cli.up"


def test_without_traces_no_process_imports_opentelemetry() -> None:
    script = f"""
import sys, {PROCESSES}
from nebula.cli.tracing_options import TraceOptions, router_posting
with TraceOptions().tracing("nebula-gateway") as tracer:
    assert tracer is None
    router_posting(tracer)
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""
    environ = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environ)
    assert ran.stdout.decode().strip() == "[]", ran.stderr.decode()


@pytest.mark.anyio
async def test_without_traces_a_router_publishes_through_nothing_else() -> None:
    def post(subject: str, header: bytes, body: bytes) -> None: ...

    assert router_posting(None)(post, Actor(Connection("nats://127.0.0.1:1", "router"))) is post


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://collector:4318", URL),
        ("http://collector:4318/", URL),
        (URL, URL),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_a_collector_s_url_needs_no_path(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize("url", ["", "collector:4318", "grpc://collector:4317", "http:///v1"])
def test_what_is_not_a_collector_s_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a collector"):
        endpoint_of(url)


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, URL),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/a/"},
            "http://collector:4318/a/v1/traces",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"},
            URL,
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL, "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_opentelemetry_s_own_variables_say_where(variables: dict[str, str], endpoint: str) -> None:
    assert found(variables) == endpoint


def test_another_protocol_than_http_is_refused() -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        found(variables)
    assert found({**variables, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"})


def test_options_reach_the_processes_of_up() -> None:
    given = TraceOptions(URL, 0.25, prompts=True, engines=False)
    assert given.settings() == TraceSettings(URL, 0.25, prompts=True)
    line = ("--otlp-traces-endpoint", URL, "--trace-ratio", "0.25")
    assert given.arguments() == line
    assert given.arguments(prompts=True, engines=True) == (
        *line,
        "--trace-prompts",
        "--no-trace-engines",
    )
    assert TraceOptions().arguments(prompts=True, engines=True) == ()


@pytest.mark.parametrize(
    "arguments", [["--otlp-traces-endpoint", "nowhere"], ["--trace-ratio", "2"]]
)
def test_options_that_are_not_valid_are_refused(arguments: list[str]) -> None:
    ended = CliRunner().invoke(gateway, arguments)
    assert ended.exit_code == 2
    assert arguments[0] in ended.output


# What a request tells


def test_a_request_s_attributes_have_the_names_of_the_conventions() -> None:
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "a secret"}],
        "temperature": 0,
        "top_p": 0.9,
        "max_completion_tokens": 7,
        "seed": 1,
        "n": 2,
        "stop": "end",
        "stream": True,
        "user": "me",
    }
    told = gen_ai.of_request("/v1/chat/completions", body)
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "chat",
        "gen_ai.request.temperature": 0,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.seed": 1,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ["end"],
        "gen_ai.request.stream": True,
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(["model", "n", "stop", "max_tokens", "temperature", "stream"]),
)
def test_any_field_of_a_body_is_read(value: Any, name: str) -> None:
    assert gen_ai.of_request("/v1/completions", {name: value})


def test_paths_beyond_the_conventions_have_names_too() -> None:
    assert gen_ai.operation("/v1/embeddings") == "embeddings"
    assert gen_ai.operation("/v1/rerank") == "rerank"
    assert gen_ai.operation("/classify") == "/classify"


def test_an_answer_tells_its_id_model_and_why_it_ended() -> None:
    whole = gen_ai.AnswerReader()
    whole.take(
        b'{"id":"c-1","model":"chat","choices":[{"finish_reason":"stop","message":{"content":"hi"}}]}'
    )
    wanted = {
        "gen_ai.response.id": "c-1",
        "gen_ai.response.model": "chat",
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert whole.attributes == wanted
    assert whole.said == ""
    stream = gen_ai.AnswerReader(prompts=True)
    for text, reason in (("he", "null"), ("llo", '"stop"')):
        event = (
            '{"id":"c-1","model":"chat","choices":[{"delta":{"content":"%s"},"finish_reason":%s}]}'
        )
        stream.take(b"data: %b\n\n" % (event % (text, reason)).encode())
    stream.take(b"data: [DONE]\n\n")
    assert stream.attributes == wanted
    assert stream.said == "hello"


@given(st.binary())
def test_any_bytes_of_an_answer_are_read(body: bytes) -> None:
    reader = gen_ai.AnswerReader(prompts=True)
    reader.take(body)
    reader.take(b"data: " + body)


def test_what_is_said_is_cut_where_it_is_long() -> None:
    said = gen_ai.input_messages({"messages": [{"role": "user", "content": "ä" * 100_000}]})
    assert len(said.encode()) <= gen_ai.LONGEST


# The context that is carried


def test_a_span_takes_the_place_of_the_client_s_context() -> None:
    fields = (("anthropic-version", "1"), PARENT, ("tracestate", "a=b"))
    span = TracerProvider().get_tracer("t").start_span("s", context_of(fields))
    own = span.get_span_context()
    assert f"{own.trace_id:032x}" == TRACE
    assert with_span(fields, span) == (
        ("anthropic-version", "1"),
        ("traceparent", f"00-{TRACE}-{own.span_id:016x}-01"),
        ("tracestate", "a=b"),
    )


@pytest.mark.parametrize(
    "fields", [(), (PARENT, PARENT), (("traceparent", "x"),), (("tracestate", "a=b"),)]
)
def test_no_context_is_taken_from_what_is_not_valid(fields: Any) -> None:
    span = TracerProvider().get_tracer("t").start_span("s", context_of(fields))
    assert f"{span.get_span_context().trace_id:032x}" != TRACE
    assert not span.get_span_context().trace_state


# The spans of attempts


class Sent(Sending):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refuses = False

    def send(self, request: Request, router: str, direct: Direct | None = None) -> None:
        if self.refuses:
            raise NatsError("no room")
        self.requests.append(request)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> trace.Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return provider.get_tracer("test")


REQUEST = Request("r1", "gw", "m", "/v1/completions", b'{"model":"m"}', fields=(PARENT,))


def test_a_request_that_can_t_be_sent_leaves_nothing_behind(
    tracer: trace.Tracer, exported: InMemorySpanExporter
) -> None:
    inner = Sent()
    inner.refuses = True
    sending = TracedSending(inner, tracer)
    request = sending.begin(REQUEST)
    with pytest.raises(NatsError):
        sending.send(request, "")
    sending.abandon(request.id, "no room")
    spans = {span.name: span for span in exported.get_finished_spans()}
    assert set(spans) == {"attempt 1", "text_completion m"}
    assert not spans["attempt 1"].status.is_ok
    assert not sending.under_way


def test_a_request_without_a_client_has_a_span_of_its_own_until_it_has_ended(
    tracer: trace.Tracer, exported: InMemorySpanExporter
) -> None:
    inner = Sent()
    sending = TracedSending(inner, tracer)
    flight = InFlightRequest(
        request=REQUEST, binding=NameBinding("m"), answer=Answer(REQUEST), idle=600.0, began=100.0
    )
    begun = sending.begin(flight.request)
    sending.send(begun, "router-1")
    assert sending.under_way == 1
    sending.failed(flight.id, Failure.ENGINE_FAILED)
    sending.ended(Delivery(flight))
    assert not sending.under_way
    attempt, own = exported.get_finished_spans()
    assert attempt.attributes is not None
    assert attempt.attributes["error.type"] == Failure.ENGINE_FAILED
    assert attempt.attributes["nebula.router"] == "router-1"
    assert own.context is not None
    assert attempt.parent is not None
    assert own.parent is not None
    assert attempt.parent.span_id == own.context.span_id
    assert f"{own.parent.span_id:016x}" == SPAN
    carried = dict(inner.requests[0].fields)["traceparent"]
    assert attempt.context is not None
    assert carried == f"00-{TRACE}-{attempt.context.span_id:016x}-01"
    assert dict(begun.fields)["traceparent"] == f"00-{TRACE}-{own.context.span_id:016x}-01"


def test_what_is_sent_beside_a_request_has_no_span_and_is_not_kept(
    tracer: trace.Tracer, exported: InMemorySpanExporter
) -> None:
    inner = Sent()
    sending = TracedSending(inner, tracer)
    sending.send(REQUEST, "")
    assert inner.requests == [REQUEST]
    assert not sending.under_way
    assert not exported.get_finished_spans()


@pytest.mark.anyio
async def test_a_router_s_span_is_made_of_what_it_writes(
    tracer: trace.Tracer, exported: InMemorySpanExporter
) -> None:
    posted: list[str] = []
    router = Actor(Connection("nats://127.0.0.1:1", "router"))
    post = traced_posting(tracer)(lambda subject, *_: posted.append(subject), router)
    routed = Routed("router-1", 41, (ReplicaCandidate("m-0", 1),), 2.5)
    header = envelope.routed_block(envelope.request_block(REQUEST), 3, routed)
    post(subjects.replica_requests("m", "m-0"), header, b"")
    post(subjects.responses("gw", "r1"), b"", b"")
    post(subjects.replica_requests("m", "m-0"), b"NATS/1.0\r\n\r\n", b"")
    assert len(posted) == 3
    queue, route = exported.get_finished_spans()
    assert (queue.name, route.name) == ("queue m", "route m")
    assert route.attributes is not None
    assert route.attributes["nebula.state.seq"] == 41
    assert route.attributes["nebula.queue.duration"] == 2.5
    assert route.end_time is not None
    assert route.start_time is not None
    assert route.end_time - route.start_time == 2_500_000_000
