"""Requests, answers and what actors tell each other about them: the messages on NATS. Pure.

A request is one message. Its answer is a numbered run of messages on the request's own subject:
perhaps some that only say where it is (in a router's queue, then at a replica), then the head with
the HTTP status, the body in pieces, and one that ends it. A short answer is a single message that
is all of it. Where an engine dies, the gateway asks again under the same id with the next
`attempt`, whose pieces are numbered from 0 again; those of earlier attempts mean nothing any more.
"""

from enum import StrEnum
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

HeaderFields: TypeAlias = tuple[tuple[str, str], ...]
"""Header fields of HTTP: lower-case names, and values in Latin-1."""

ALL_ATTEMPTS = 2**31
"""All attempts of a request have numbers below this one."""

LOAD_PATIENCE = 600.0
"""Default seconds that a gateway lets a request wait for a replica: as long as OpenAI's clients
wait for an answer. vLLM may need minutes to start; a client that wants to wait for less ends the
request, or sets X-Request-Timeout."""

SWITCHED = 101
"""The status of an answer that is a session (RFC 9110, 15.2.2): its body has frames (`frames`)."""

BUSY = frozenset({429, 503})
"""Statuses by which an engine says that it is full, not broken: they are passed on as they are."""

_VERDICTS = BUSY | {501, 505}


class Doubt(StrEnum):
    """Why a router prefers other replicas: the values of `doubt`."""

    FAILED = "failed"
    """It has failed several requests since its last success."""
    TRIED = "tried"
    """It has failed this very request."""
    SILENT = "silent"
    """It sends no heartbeat."""
    STALLED = "stalled"
    """It has requests and makes no progress."""


class Form(StrEnum):
    """How an attempt's answer relates to the client's: the values of `continues`."""

    ORIGINAL = ""
    """The answer to the client's own request, from its start."""
    RESTARTED = "again"
    """The same answer, from its start once more."""
    CONTINUED = "rest"
    """A completion of the prompt and of the tokens so far: only the rest of the answer."""


class TokenIds(StrEnum):
    """What the token ids are for that an engine is asked for: the values of `tokens`."""

    SHOWN = "shown"
    """For the client, and for the gateway too."""
    TRACKED = "tracked"
    """For the gateway only, which may have to continue the answer elsewhere."""
    USAGE = "usage"
    """None; but the engine tells its usage at the end, which is for the gateway only."""


def blames(status: int) -> bool:
    """Return whether an engine's answer may be its own fault: another engine may do better.

    It is not if the status blames the request (4xx, 501), or says that the engine is full (BUSY).
    """
    return status >= 500 and status not in _VERDICTS


class _RequestStart(Struct, frozen=True, gc=False):
    """The fields of every request, which may be given by position."""

    id: Annotated[str, Meta(description="Id of the request, as in the answer's `x-request-id`.")]
    gateway: Annotated[str, Meta(description="Id of the gateway that waits for the answer.")]
    model: Annotated[str, Meta(description="Id of the model.")]
    path: Annotated[str, Meta(description="Path of the HTTP request, as `/v1/chat/completions`.")]
    body: Annotated[bytes, Meta(description="Body of the HTTP request.")]


class Request(_RequestStart, frozen=True, gc=False, kw_only=True):
    """One HTTP request on its way to an engine.

    Its times are durations, not points in time, because the clocks of machines differ.
    """

    adapter: Annotated[str, Meta(description="Name of the adapter; empty for none.")] = ""
    content_type: Annotated[str, Meta(description="Media type of the body.")] = "application/json"
    attempt: Annotated[
        int, Meta(description="Number of the attempt, from 1: an engine that died is replaced.")
    ] = 1
    avoid: Annotated[
        str, Meta(description="Id of the replica that has just failed the request, if one has.")
    ] = ""
    user: Annotated[
        str,
        Meta(description="User that fairness counts the request for, as `KEY` or `KEY/USER`."),
    ] = ""
    priority: Annotated[
        int, Meta(description="Priority as in vLLM: a lower number goes first.")
    ] = 0
    patience: Annotated[
        float, Meta(description="Time that the request may queue in a router, in seconds.")
    ] = 30.0
    timeout: Annotated[
        float | None,
        Meta(description="Time until the client stops waiting, in seconds; null for no limit."),
    ] = None
    prefix: Annotated[
        tuple[str, ...], Meta(description="Digests of the prompt's beginnings, shortest first.")
    ] = ()
    keep: Annotated[
        bool, Meta(description="Whether it runs to its end even if no gateway waits for it.")
    ] = False
    continues: Annotated[
        str,
        Meta(
            description="How the answer continues that an earlier attempt began: `again` from its "
            "start, or with its `rest` alone; empty for a first attempt."
        ),
    ] = ""
    tokens: Annotated[
        str,
        Meta(
            description="Whether the engine sends token ids too, and for which use: `shown` to the "
            "client or `tracked` by the gateway alone; empty if it sends none, or `usage` "
            "if it tells only the number of tokens, for the gateway alone."
        ),
    ] = ""
    gone: Annotated[
        bool, Meta(description="Whether the replica in `avoid` died or fell silent.")
    ] = False
    version: Annotated[
        str,
        Meta(
            description="Digest of the adapter's version that answers; a router, or a gateway with "
            "a lease, fills it in if it is empty."
        ),
    ] = ""
    query: Annotated[str, Meta(description="Query string of the HTTP request, without `?`.")] = ""
    fields: Annotated[
        HeaderFields,
        Meta(description="Header fields of the client's request that the engine gets too."),
    ] = ()
    slack: Annotated[
        bool,
        Meta(
            description="Whether it takes spare capacity only: behind all requests that clients "
            "wait for, and without waking a model."
        ),
    ] = False
    size: Annotated[
        int,
        Meta(
            description="Bytes of a body that is not in this message: the engine fetches it from "
            "the gateway. 0 if it is here."
        ),
    ] = 0
    caller_ids: Annotated[
        tuple[str, ...], Meta(description="Ids that the caller gave the request, to find it by.")
    ] = ()
    pushed: Annotated[
        bool,
        Meta(
            description="Whether the gateway sends that body to the engine right behind this "
            "message; what does not come is fetched."
        ),
    ] = False
    bundled: Annotated[
        bool,
        Meta(
            description="Whether pieces of its answer may come in bundles, together with those of "
            "others."
        ),
    ] = False

    @property
    def whole_size(self) -> int:
        """The bytes of its body, wherever that is."""
        return self.size or len(self.body)


class _PieceStart(Struct, frozen=True, gc=False):
    """The fields of most pieces, which may be given by position: keywords cost time per token."""

    chunk: Annotated[
        int,
        Meta(
            description="Number of the piece, from 0 without gaps; -1 for a note that only tells "
            "which replica or router has the request now."
        ),
    ]
    body: Annotated[bytes, Meta(description="A part of the HTTP answer's body.")] = b""


class Piece(_PieceStart, frozen=True, gc=False, kw_only=True):
    """One message of an answer."""

    status: Annotated[int, Meta(description="HTTP status, on the first piece only; else 0.")] = 0
    content_type: Annotated[str, Meta(description="Media type, beside the status.")] = ""
    replica: Annotated[str, Meta(description="Id of the replica that answers.")] = ""
    end: Annotated[bool, Meta(description="Whether this piece ends the answer.")] = False
    failure: Annotated[
        str,
        Meta(
            description="Why the answer ends here: the value of a `Failure`. With `refused` "
            "the body is the reason in words."
        ),
    ] = ""
    attempt: Annotated[int, Meta(description="Attempt that the piece belongs to, from 1.")] = 1
    queued: Annotated[str, Meta(description="Id of the router that has queued the request.")] = ""
    retry_after: Annotated[
        int | None,
        Meta(
            description="Seconds after which another try may succeed, from a router or an engine "
            "that is full."
        ),
    ] = None
    continues: Annotated[str, Meta(description="As in the request, on the first piece.")] = ""
    version: Annotated[
        str, Meta(description="Digest of the adapter's version, on the first piece.")
    ] = ""
    fields: Annotated[
        HeaderFields,
        Meta(description="Further header fields of the engine's answer, on the first piece."),
    ] = ()


class ReplicaCandidate(Struct, frozen=True, array_like=True):
    """A replica that could get a request, and what was known of it where that was decided."""

    replica: Annotated[str, Meta(description="Id of the replica.")]
    in_flight: Annotated[
        int, Meta(description="Number of requests that it has, or that are on their way to it.")
    ]
    avoided: Annotated[bool, Meta(description="Whether other replicas are preferred.")] = False
    waiting: Annotated[
        int, Meta(description="Requests that wait inside the engine, from its heartbeat.")
    ] = 0
    cache: Annotated[
        float, Meta(description="Part of its KV cache in use, 0 to 1, from its heartbeat.")
    ] = 0.0
    prefix: Annotated[
        int, Meta(description="Bytes of the prompt's beginning that it has processed before.")
    ] = 0
    doubt: Annotated[
        str, Meta(description="Why it is avoided: `failed`, `tried`, `silent` or `stalled`.")
    ] = ""

    @property
    def load(self) -> int:
        """How busy it is, in requests; those that wait inside the engine weigh twice."""
        return self.in_flight + self.waiting


class Routed(Struct, frozen=True, omit_defaults=True):
    """Why a router, or a gateway that held its lease, sent a request to the replica that got it."""

    router: Annotated[str, Meta(description="Id of the router.")]
    seq: Annotated[
        int, Meta(description="Sequence of the last event that was folded where it was chosen.")
    ]
    candidates: Annotated[
        tuple[ReplicaCandidate, ...],
        Meta(description="The replicas that could get the request."),
    ]
    waited: Annotated[
        float, Meta(description="Time that the request queued in the router, in seconds.")
    ] = 0.0
    gateway: Annotated[
        str,
        Meta(
            description="Id of the gateway that chose and sent it under a lease of the router; "
            "empty if the router did."
        ),
    ] = ""


class UnderWay(Struct, frozen=True, array_like=True):
    """How far an engine is with a request."""

    attempt: Annotated[int, Meta(description="Attempt that it works on, from 1.")]
    chunks: Annotated[int, Meta(description="Number of pieces that it has sent.")]


class BodyWanted(Struct, frozen=True):
    """An engine asks a gateway for a part of the body of one of its requests."""

    request: Annotated[str, Meta(description="Id of the request.")]
    attempt: Annotated[int, Meta(description="Number of the attempt that the engine has.")]
    offset: Annotated[int, Meta(ge=0, description="Bytes of the body that come before the part.")]
    size: Annotated[int, Meta(ge=0, description="Bytes of the part at most.")]


class StillWanted(Struct, frozen=True):
    """An engine asks a gateway which of its requests still have a client that waits.

    A cancellation, or the last piece of an answer, may be lost together with NATS.
    """

    replica: Annotated[str, Meta(description="Id of the engine's replica.")]
    requests: Annotated[
        dict[str, UnderWay], Meta(description="The engine's requests of this gateway, by id.")
    ]


class Unwanted(Struct, frozen=True):
    """A gateway's reply to an engine: the requests that it no longer waits for."""

    requests: Annotated[
        dict[str, int],
        Meta(description="For each unwanted request the first attempt that is still wanted."),
    ]


class Finished(Struct, frozen=True):
    """An engine tells every router which requests it has finished, however they ended."""

    replica: Annotated[str, Meta(description="Id of the engine's replica.")]
    requests: Annotated[tuple[str, ...], Meta(description="Ids of the finished requests.")]
    failed: Annotated[
        tuple[str, ...], Meta(description="Ids of those among them that the engine failed.")
    ] = ()
    active: Annotated[int, Meta(description="Number of requests that the engine still has.")] = 0
    unproven: Annotated[
        tuple[str, ...],
        Meta(
            description="Ids of those among them that prove nothing about the engine's health: "
            "cancelled, out of time, or refused by it."
        ),
    ] = ()
    slack: Annotated[
        tuple[str, ...],
        Meta(description="Ids of those among them that took spare capacity only."),
    ] = ()
    active_slack: Annotated[
        int, Meta(description="Number of the `active` requests that take spare capacity only.")
    ] = 0
