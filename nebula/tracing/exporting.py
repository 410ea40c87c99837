"""Makes a tracer whose spans a thread sends to a collector, and ends it.

Nothing waits for the collector: spans that it does not take are dropped beyond a bounded number.
"""

import importlib.metadata
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

from nebula.tracing.event_ids import EventIds
from nebula.tracing.settings import TraceSettings

ENDING = 2.0
"""Seconds that the last spans of a process get to be sent."""

_PACKAGE = "nebula-serving"


@contextmanager
def tracing(settings: TraceSettings, service: str) -> Iterator[Tracer]:
    """Yield a tracer; at the end its last spans are sent.

    `service`: the name of the service, unless OTEL_SERVICE_NAME has another.
    """
    version = importlib.metadata.version(_PACKAGE)
    own = {"service.name": service, "service.namespace": "nebula", "service.version": version}
    told = Resource.create()  # of OpenTelemetry's own variables
    if str(told.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = told.merge(Resource(own))
    else:
        resource = Resource(own).merge(told)
    sampler = None if settings.ratio is None else ParentBased(TraceIdRatioBased(settings.ratio))
    provider = TracerProvider(
        resource=resource, sampler=sampler, id_generator=EventIds(), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=settings.endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer("nebula", version)
    finally:
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(ENDING)
