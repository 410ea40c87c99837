"""Makes a tracer whose spans a thread sends to a collector, and ends it.

Nothing waits for the collector: spans that it does not take are dropped beyond a bounded number.
"""

import importlib.metadata
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

from nebula.tracing.event_ids import EventIds
from nebula.tracing.settings import TraceSettings

ENDING = 2.0
"""Seconds that the last spans of a process get to be sent."""

_PACKAGE = "nebula-serving"


class Tracing(NamedTuple):
    """What makes spans: of requests, some of which are recorded, and of events, which all are.

    `ids`: the ids of the spans of events.
    """

    requests: Tracer
    events: Tracer
    ids: EventIds


@contextmanager
def tracing(settings: TraceSettings, service: str) -> Iterator[Tracing]:
    """Yield what makes spans; at the end the last ones are sent.

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
    ids = EventIds()
    requests = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    events = TracerProvider(
        resource=resource, sampler=ALWAYS_ON, id_generator=ids, shutdown_on_exit=False
    )
    sending = BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint))
    requests.add_span_processor(sending)
    events.add_span_processor(sending)
    try:
        yield Tracing(
            requests.get_tracer("nebula", version), events.get_tracer("nebula", version), ids
        )
    finally:
        ending = threading.Thread(target=sending.shutdown, daemon=True)
        ending.start()
        ending.join(ENDING)
