"""The context of a trace in the header fields of a request (W3C Trace Context)."""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nebula.events.inference import HeaderFields
from nebula.events.trace_context import PARENT, STATE, trace_of

_propagator = TraceContextTextMapPropagator()


def context_of(fields: HeaderFields) -> Context:
    """Return the context that header fields carry; an empty one if they carry no valid one."""
    if sum(name == PARENT for name, _ in fields) != 1 or not trace_of(fields):
        return Context()
    states = ",".join(value for name, value in fields if name == STATE)
    return _propagator.extract({**dict(fields), **({STATE: states} if states else {})}, Context())


def with_span(fields: HeaderFields, span: Span) -> HeaderFields:
    """Return header fields with the context of a span in place of another one."""
    carried: dict[str, str] = {}
    _propagator.inject(carried, trace.set_span_in_context(span, Context()))
    others = tuple([field for field in fields if field[0] not in (PARENT, STATE)])
    return (*others, *carried.items())
