"""Why a request fails, and the words for it: for its client, for `nebula why`, for the log. Pure.

A failure travels as its value: in the header of the piece that ends an answer, and in the note by
which a gateway ends a request everywhere. So values never change, and a value that is not known
here, since a later version sent it, is its own word.
"""

from enum import StrEnum

from msgspec import Struct

FINISHED = "finished"
"""The note of a gateway that ended an answer well, with bytes that it could write itself."""


class Failure(StrEnum):
    """Why an answer failed, before its first piece or after it."""

    REFUSED = "refused"
    """A router refused the request; the piece's body is the reason in words."""

    ENGINE_FAILED = "engine-failed"
    ENGINE_STOPPED = "engine-stopped"
    ENGINE_TIMED_OUT = "timed-out"
    """A router or an engine ended the request, since its time is over."""

    OTHER_PLAN = "other-plan"
    OTHER_VERSION = "other-version"

    BODY_LOST = "body-lost"
    """The engine could not fetch the request's body from its gateway."""

    GAP = "gap"
    """A piece is missing: what came after it can't be given."""

    TAKEN_BACK = "taken-back"
    """A router takes a request back that takes spare capacity only, before it is answered."""

    NOT_TAKEN = "not-taken"
    IDLE = "idle"
    OVERDUE = "overdue"
    NATS_LOST = "nats-lost"
    TOO_SLOW = "too-slow"

    FATAL = "fatal"
    """Attempts in a row have broken off, and the engines said nothing: it may be what breaks them.
    The piece's body is how many."""

    CANT_CONTINUE = "cant-continue"
    """The attempt broke, and the answer can't continue elsewhere. The piece's body is `FAILURE:
    WHY`, where FAILURE is what broke the attempt."""

    STOPPING = "stopping"
    """The gateway ends, and its grace is over."""

    BEYOND = "beyond"
    """The resumed stream ended before the event after which its client asked to resume."""

    CANCELLED = "cancelled"
    """An operator cancelled the request. A note's text is the operator's name."""


class Words(Struct, frozen=True):
    """The words for a failure, by their readers.

    `client`: its client, and the gateway's log. `history`: `nebula why`, about a request that its
    gateway gave up. `attempt`: `nebula why`, about an engine that had the request before another
    one got it. `ended`: about an attempt that ended so; `{engine}` stands for its engine.
    """

    client: str
    history: str
    attempt: str = ""
    ended: str = ""


_WORDS = {
    Failure.REFUSED: Words("a router refused the request", "a router refused it"),
    Failure.ENGINE_FAILED: Words(
        "the engine that worked on this request has failed",
        "the engine failed",
        "its engine failed",
        "failed: {engine} failed on the way",
    ),
    Failure.ENGINE_STOPPED: Words(
        "the engine that worked on this request was stopped",
        "the engine was stopped",
        "its engine was stopped",
        "ended: {engine} was stopped",
    ),
    Failure.ENGINE_TIMED_OUT: Words(
        "the time of its X-Request-Timeout is over",
        "the time that its X-Request-Timeout gave it was over",
        ended="ended: the time that its X-Request-Timeout gave it was over",
    ),
    Failure.OTHER_PLAN: Words(
        "no router knew the replica's newest plan yet",
        "it was sent for an older plan than the engine's",
        "its engine runs for a newer plan than the router knew",
        "sent back: {engine} runs for a newer plan",
    ),
    Failure.OTHER_VERSION: Words(
        "the adapter is another version by now",
        "it was sent for a different version of the adapter than the engine has",
        "its engine does not have that version of the adapter",
        "sent back: {engine} has another version of the adapter",
    ),
    Failure.BODY_LOST: Words(
        "the engine could not fetch the request's body",
        "its engine could not fetch its body from its gateway",
        "its engine could not fetch its body",
        "given up: {engine} could not fetch its body from the gateway",
    ),
    Failure.GAP: Words(
        "a part of the answer was lost on its way",
        "a part of the answer was lost",
    ),
    Failure.TAKEN_BACK: Words(
        "its replica was needed for requests that clients wait for",
        "its replica was needed for requests that clients wait for",
        "its router took it back, for requests that clients wait for",
        "taken back: {engine} was needed for requests that clients wait for",
    ),
    Failure.NOT_TAKEN: Words(
        "no router or replica took the request in time",
        "no router or replica took it in time",
    ),
    Failure.IDLE: Words(
        "the engine did not go on in time",
        "its engine said nothing for too long",
    ),
    Failure.OVERDUE: Words(
        "the time of its X-Request-Timeout is over",
        "the time that its X-Request-Timeout gave it was over",
    ),
    Failure.NATS_LOST: Words(
        "the connection to NATS was lost",
        "the connection to NATS was lost",
    ),
    Failure.TOO_SLOW: Words("the client reads too slowly", "its client read too slowly"),
    Failure.FATAL: Words(
        "tries of this request in a row broke off, and the engines said nothing: it may be what "
        "breaks them, so it is not tried again. It may have been worked on",
        "one engine after the other broke off without a word: the request may be what ends them",
    ),
    Failure.CANT_CONTINUE: Words(
        "the answer can't go on elsewhere",
        "it can't go on elsewhere",
    ),
    Failure.STOPPING: Words("the gateway is stopping", "its gateway was stopped"),
    Failure.BEYOND: Words(
        "the stream has ended and has no event with the number after which to go on",
        "its client asked for a later event than there was",
    ),
    Failure.CANCELLED: Words(
        "an operator of the cluster cancelled the request", "an operator cancelled it"
    ),
}


def words(failure: str) -> Words:
    """Return the words for a failure; for an unknown failure, its value."""
    try:
        return _WORDS[Failure(failure)]
    except ValueError:
        return Words(failure, failure)


def note(failure: str, body: bytes) -> bytes:
    """Return the note with which a gateway ends a request everywhere.

    `failure` is "" if the answer has ended well; `body` explains a failure, or is the answer's
    missing end.
    """
    return b"%b: %b" % ((failure or FINISHED).encode(), body)


def read_note(said: bytes) -> tuple[str, bytes]:
    """Return the failure in a note, or FINISHED, and the text after it."""
    word, _, rest = said.partition(b": ")
    return word.decode(errors="replace"), rest
