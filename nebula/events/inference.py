"""Requests, answers and what actors tell each other about them: the messages on NATS. Pure.

A request is one message. Its answer is a numbered run of messages on the request's own subject:
perhaps some that only say who has it (a router's line, then a replica), then the head with the HTTP
status, the body in pieces, and one that ends it. A short answer is a single message that is all of
it. Where an engine dies, the gateway asks again under the same id with the next `attempt`, whose
pieces are numbered from 0 again; those of earlier attempts mean nothing any more.
"""

from msgspec import Struct

REFUSED = "refused"
ENGINE_FAILED = "engine-failed"
ENGINE_STOPPED = "engine-stopped"
ENGINE_TIMED_OUT = "timed-out"
OTHER_PLAN = "other-plan"

ALL_ATTEMPTS = 2**31
"""All attempts of a request have numbers below this one."""

BUSY = frozenset({429, 503})
"""Statuses by which an engine says that it is full, not broken: they are passed on as they are."""

_VERDICTS = BUSY | {501, 505}

FAILED, TRIED, SILENT, STALLED = "failed", "tried", "silent", "stalled"
"""Why a replica is avoided: different requests failed there, this very request did, it is not heard
from, it has requests and stands still."""


def blames(status: int) -> bool:
    """Return whether an engine's own answer may be its fault: another engine could do better then.

    It is not where a status tells of the request (4xx, 501), or of an engine that is full (BUSY).
    """
    return status >= 500 and status not in _VERDICTS


class Request(Struct, frozen=True, gc=False):
    """One HTTP request on its way to an engine.

    `user` is whom fairness counts it for; a lower `priority` goes first, as in vLLM. `patience`:
    seconds it may wait in a router; `timeout`: seconds until nobody wants the answer any more.
    Durations, not times: machines' clocks differ. `prefix`: digests of the prompt's beginnings.
    `avoid`: the replica that has just failed it; `gone`: it died or fell silent. `keep`: go on
    without a gateway that waits.
    `continues`: how what is asked for goes on where the attempt before it was cut off: `again`
    from the start, or with the `rest` alone. `tokens`: the engine is asked for token ids too, which
    the client wants (`shown`) or does not (`tracked`).
    """

    id: str
    gateway: str
    model: str
    path: str
    body: bytes
    adapter: str = ""
    content_type: str = "application/json"
    attempt: int = 1
    avoid: str = ""
    user: str = ""
    priority: int = 0
    patience: float = 30.0
    timeout: float | None = None
    prefix: tuple[str, ...] = ()
    keep: bool = False
    continues: str = ""
    tokens: str = ""
    gone: bool = False


class Piece(Struct, frozen=True, gc=False):
    """One message of an answer.

    `chunk` counts from 0 without gaps; -1 for one that only says who has the request now: a
    `replica`, or the router in whose line it waits (`queued`). `status` is the HTTP status, on the
    head only. `end` closes the answer. `failure` says why there is no (further) answer: one of this
    module's constants; with REFUSED the body is the reason in words. `retry_after`: the seconds
    after which asking again may help, as a router or an engine that is full has it. `continues`
    stands on the head, as in the request.
    """

    chunk: int
    body: bytes = b""
    status: int = 0
    content_type: str = ""
    replica: str = ""
    end: bool = False
    failure: str = ""
    attempt: int = 1
    queued: str = ""
    retry_after: int | None = None
    continues: str = ""


class Candidate(Struct, frozen=True, array_like=True):
    """A replica that could have a request, and what a router knows of it.

    `in_flight`: requests that are on their way to it or in it. `waiting` and `cache`: the engine's
    own word, as in its heartbeat. `prefix`: bytes of the prompt's beginning that it has seen.
    `avoided`: others are preferred to it, for its `doubt`: one of this module's words.
    """

    replica: str
    in_flight: int
    avoided: bool = False
    waiting: int = 0
    cache: float = 0.0
    prefix: int = 0
    doubt: str = ""

    @property
    def load(self) -> int:
        """How busy it is, in requests; those that the engine itself holds back weigh twice."""
        return self.in_flight + self.waiting


class Routed(Struct, frozen=True):
    """Why a request went where it went: who sent it, from the state at `seq`, and among whom.

    `waited`: the seconds it stood in that router's line.
    """

    router: str
    seq: int
    candidates: tuple[Candidate, ...]
    waited: float = 0.0


class UnderWay(Struct, frozen=True, array_like=True):
    """How far an engine is with a request: which attempt, and how many pieces it has sent."""

    attempt: int
    chunks: int


class StillWanted(Struct, frozen=True):
    """An engine asks a gateway which of its requests somebody waits for, and tells how far it is.

    A cancellation, or the last piece of an answer, may be lost together with NATS.
    """

    replica: str
    requests: dict[str, UnderWay]


class Unwanted(Struct, frozen=True):
    """A gateway's answer: for each request nobody waits for, the attempt from which on one does."""

    requests: dict[str, int]


class Finished(Struct, frozen=True):
    """Requests that an engine is done with, whatever way they ended; told to every router.

    `failed` are those of them that it failed, `unproven` those that tell nothing of its health:
    cancelled, out of time, or refused by it. `active` counts the requests that it still has.
    """

    replica: str
    requests: tuple[str, ...]
    failed: tuple[str, ...] = ()
    active: int = 0
    unproven: tuple[str, ...] = ()
