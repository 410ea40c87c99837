"""The span that vLLM sends of each answered request (``v1/engine/output_processor.py``).

It needs ``opentelemetry-sdk`` with its exporter for OTLP/HTTP, which vLLM brings.
"""

from __future__ import annotations

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nebula.engines.simulated_http import AsgiApp, Receive, Scope, Send

_HEADERS = ("traceparent", "tracestate")


def traced(app: AsgiApp, endpoint: str) -> AsgiApp:
    """Return an application that sends a span of each request that it has answered to its end."""
    provider = TracerProvider(
        resource=Resource.create({"vllm.instrumenting_module_name": "vllm.llm_engine"})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    tracer = provider.get_tracer("vllm.llm_engine")
    carried = TraceContextTextMapPropagator()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.time_ns()
        await app(scope, receive, send)
        if scope["type"] != "http" or scope["method"] != "POST" or "/v1/" not in scope["path"]:
            return
        fields = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        context = carried.extract({name: fields[name] for name in _HEADERS if name in fields})
        span = tracer.start_span(
            "llm_request",
            context,
            SpanKind.SERVER,
            {"gen_ai.request.id": fields.get("x-request-id", "")},
            start_time=begun,
        )
        span.end()

    return answer
