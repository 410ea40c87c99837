"""Why the log did not answer, in words for people."""

from __future__ import annotations

import pytest
from nats.errors import Error, NoRespondersError
from nats.js.errors import APIError, ServiceUnavailableError

from nebula.events.showing import shown_text
from nebula.store.reaching import Cause
from nebula.store.refusals import in_words, unanswered


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServiceUnavailableError(), "JetStream is switched off, or has no leader now"),
        (NoRespondersError(), "JetStream is switched off, or has no leader now"),
        (TimeoutError(), "no answer came in time"),
        (APIError(code=400, description="no such thing", err_code=1), "no such thing"),
        (Error("nats: odd"), "odd"),
        (Error(), "Error"),
    ],
)
def test_what_does_not_answer_says_why(error: Exception, words: str) -> None:
    assert unanswered(error) == words
    if isinstance(error, ServiceUnavailableError):
        assert in_words(error) == f"the log does not answer: {words}"


def test_a_limit_that_is_reached_is_named_also_where_the_server_calls_it_unavailable() -> None:
    error = ServiceUnavailableError(code=503, description="insufficient resources", err_code=10023)
    assert "max_file_store" in in_words(error)


@pytest.mark.parametrize("cause", Cause)
def test_no_words_of_what_is_in_the_way_are_taken_for_a_secret(cause: Cause) -> None:
    assert shown_text(cause.value) == cause.value
