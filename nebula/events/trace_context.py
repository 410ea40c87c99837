"""The context of a trace, as a client's request brings it (W3C Trace Context, 3.2). Pure."""

import re

from nebula.events.inference import HeaderFields

PARENT = "traceparent"
STATE = "tracestate"

VARIABLE = "TRACEPARENT"
"""The variable from which vLLM takes the context of the spans of its start."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_VERSION = "ff"
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


def trace_id(traceparent: str) -> str:
    """Return the id of the trace that a `traceparent` names; "" if it is not a valid one.

    Later versions of the form may have more at its end.
    """
    found = _FORM.fullmatch(traceparent)
    if found is None:
        return ""
    version, trace, span, _, more = found.groups()
    if version == _NO_VERSION or trace == _NO_TRACE or span == _NO_SPAN:
        return ""
    return "" if more and version == "00" else trace


def trace_of(fields: HeaderFields) -> str:
    """Return the id of the trace that a request's header fields name; "" for none."""
    return next((trace_id(value) for name, value in fields if name == PARENT), "")
