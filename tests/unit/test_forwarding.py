"""Which header fields of a client its engine gets."""

import pytest

from nebula.http.errors import ApiError
from nebula.http.forwarding import MOST, forwarded

SENT = {
    b"host": b"gateway",
    b"authorization": b"Bearer secret",
    b"x-api-key": b"secret",
    b"cookie": b"a=b",
    b"connection": b"close",
    b"content-type": b"application/json",
    b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"tracestate": b"vendor=1",
    b"anthropic-version": b"2023-06-01",
    b"anthropic-beta": b"tools-2024-04-04",
    b"openai-organization": b"caf\xe9",
}


def test_only_the_trace_and_the_fields_of_the_apis_are_passed_on() -> None:
    assert dict(forwarded(SENT)) == {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "vendor=1",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "tools-2024-04-04",
        "openai-organization": "café",
    }


def test_fields_that_would_not_fit_into_a_message_are_refused_by_name() -> None:
    fits = {b"openai-x": b"v" * (MOST - len(b"openai-x"))}
    assert forwarded(fits)
    with pytest.raises(ApiError, match="openai-x") as refused:
        forwarded({b"openai-x": fits[b"openai-x"] + b"v"})
    assert refused.value.status == 431
