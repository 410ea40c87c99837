"""What it means when the log does not take an event, in words, and whether it may have taken it."""

from nats.errors import NoRespondersError
from nats.js.errors import APIError

from nebula.store.connection import Unavailable

MAYBE = "it may have been recorded all the same: look with `nebula events`"
NOTHING = "nothing was recorded"

_FULL = {
    10002: "a limit of its account is reached",
    10023: "a limit of its own is reached, such as max_file_store or the account's",
    10028: "a limit of its account is reached",
    10047: "a limit of its own is reached, such as max_file_store",
    10077: "it could not be stored: max_bytes of stream NEBULA_EVENTS, or its server's disk",
    10122: "a limit of its account is reached",
}
"""By error codes of JetStream: https://github.com/nats-io/nats-server/blob/main/server/errors.json"""

REFUSALS = 3.0
"""Seconds for which an event is tried again that JetStream refuses to store: it will not help."""


class NotAppended(Unavailable):
    """The log did not take an event: `reason` says why, `outcome` whether it may be in it."""

    def __init__(self, reason: str, outcome: str) -> None:
        super().__init__(f"{reason}; {outcome}")
        self.reason = reason
        self.outcome = outcome


def is_full(error: Exception | None) -> bool:
    """Return whether it is JetStream's own word that there is no room for an event."""
    return isinstance(error, APIError) and error.err_code in _FULL


def in_words(error: Exception | None) -> str:
    """Return why an event was not taken; None: there is no connection to NATS."""
    if error is None:
        return "the log does not answer: NATS can't be reached"
    if isinstance(error, NoRespondersError):
        return "the log does not answer: JetStream is switched off, or has no leader now"
    if isinstance(error, APIError):
        meaning = _FULL.get(error.err_code or 0)
        if meaning is not None:
            return f"JetStream does not take events: {meaning} ({error.description})"
        return f"the log does not answer: {error.description}"
    if isinstance(error, TimeoutError):
        return "the log does not answer: no acknowledgement of an event came in time"
    return f"the log does not answer: {error}"
