"""What a log line is about: the ids that `--log-format json` writes as fields. Pure.

A line gets them as `extra` of `logging`.
"""

from typing import TypeAlias

from nebula.events.inference import Request
from nebula.events.trace_context import trace_of

Fields: TypeAlias = dict[str, str | int]

NAMES = ("request_id", "trace_id", "event_seq", "cause_seq")
"""The names of all fields, in the order in which they are written."""


def request_fields(request: Request) -> Fields:
    """Return the fields of a line about a request."""
    return _known({"request_id": request.id, "trace_id": trace_of(request.fields)})


def event_fields(seq: int, cause: int | None = None) -> Fields:
    """Return the fields of a line about an event of the log, and the event that led to it."""
    return _known({"event_seq": seq, "cause_seq": cause or 0})


def _known(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value}
