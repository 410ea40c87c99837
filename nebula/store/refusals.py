"""Why the log did not take an event, in words, and whether it may have stored it."""

from nats.errors import NoRespondersError
from nats.js.errors import APIError, ServiceUnavailableError

from nebula.store.connection import Unavailable

MAYBE = "it may have been recorded nevertheless: check with `nebula events`"
NOTHING = "nothing was recorded"

_FULL = {
    10002: "a limit of its account is reached",
    10023: "a limit of its own is reached, such as max_file_store or the account's",
    10028: "a limit of its account is reached",
    10047: "a limit of its own is reached, such as max_file_store",
    10077: "it could not be stored: max_bytes of stream NEBULA_EVENTS, or its server's disk",
    10122: "a limit of its account is reached",
}
"""Meanings of JetStream's error codes:
https://github.com/nats-io/nats-server/blob/main/server/errors.json"""

REFUSALS = 3.0
"""Seconds for which an event that JetStream refuses to store is tried again."""


class NotAppended(Unavailable):
    """The log did not take an event: `reason` says why, `outcome` whether it may be in it."""

    def __init__(self, reason: str, outcome: str) -> None:
        super().__init__(f"{reason}; {outcome}")
        self.reason = reason
        self.outcome = outcome


def is_full(error: Exception | None) -> bool:
    """Return whether JetStream itself reports that there is no room for an event."""
    return isinstance(error, APIError) and error.err_code in _FULL


def in_words(error: Exception | None) -> str:
    """Return why an event was not taken; None: there is no connection to NATS."""
    if error is None:
        return "the log does not answer: NATS can't be reached"
    if isinstance(error, APIError) and (error.err_code or 0) in _FULL:
        meaning = _FULL[error.err_code or 0]
        return f"JetStream does not take events: {meaning} ({error.description})"
    if isinstance(error, NoRespondersError | APIError):
        return f"the log does not answer: {unanswered(error)}"
    if isinstance(error, TimeoutError):
        return "the log does not answer: no acknowledgement of an event came in time"
    return f"the log does not answer: {error}"


def unanswered(error: Exception) -> str:
    """Return why JetStream did not answer a request, as half a sentence."""
    if isinstance(error, APIError) and error.description:
        return error.description
    if isinstance(error, NoRespondersError | ServiceUnavailableError):
        return "JetStream is switched off, or has no leader now"
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    return str(error).removeprefix("nats: ") or type(error).__name__
