"""Every subject that Nebula speaks on: who says what there, in which headers and which body."""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.events import envelope, inference, record, subjects
from nebula.events.inference import Finished, StillWanted, Unwanted
from nebula.events.original import ORIGINAL_HEADER
from nebula.events.status import NodeStatus, ReplicaStatus, RouterStatus, StoreStatus
from nebula.events.vocabulary import AGGREGATE_OF, INTENTS, TYPES, Decided

Kind: TypeAlias = Literal["intent", "decision", "fact"]
Action: TypeAlias = Literal["send", "receive"]

ID = "letters, digits, `_` and `-`, 128 at most"
"""What an id may consist of, in words."""


class Header(Struct, frozen=True):
    """A header of a message; a `needed` one must be there."""

    name: str
    meaning: str
    needed: bool = False


class Channel(Struct, frozen=True):
    """A subject with its parameters in braces, and the messages on it.

    `action` is Nebula's own towards the outside. `body`: the struct whose JSON the body is, or
    what else is in it, in words. `reply` is what a request on it is answered with.
    """

    name: str
    address: str
    action: Action
    summary: str
    body: type[Struct] | str
    headers: tuple[Header, ...] = ()
    reply: type[Struct] | str = ""
    stream: str = ""


EVENT_HEADERS = (
    Header("Nats-Msg-Id", "JetStream stores a message with an id once within two minutes"),
    Header(record.VERSION_HEADER, "version of the event's payload; 1 where it is missing"),
    Header(record.CAUSE_HEADER, "sequence of the event that led to this one"),
    Header(record.BASIS_HEADER, "sequence up to which a router had folded the log to decide"),
    Header(record.ACTOR_HEADER, "who wrote it"),
    Header(
        ORIGINAL_HEADER,
        "on imported events: time in nanoseconds, and the headers in base64, as they were",
    ),
)

_REQUEST_HEADERS = (
    Header(envelope.REQUEST, "the request's id, as in the answer's x-request-id", needed=True),
    Header(envelope.GATEWAY, "id of the gateway that waits for the answer", needed=True),
    Header(envelope.PATH, "the OpenAI path, such as /v1/chat/completions", needed=True),
    Header(envelope.ADAPTER, "name of the adapter it is for: UTF-8 as hexadecimal digits"),
    Header(envelope.CONTENT_TYPE, "of the body; application/json where it is missing"),
    Header(envelope.ATTEMPT, "1, 2 ...: the same request once more, where an engine has died"),
    Header(envelope.AVOID, "the replica that has just failed it: another one is preferred for it"),
    Header(envelope.GONE, "1: that replica was stopped, or not heard from any more"),
    Header(envelope.USER, "whom fairness counts it for: a hash of the API key, else of `user`"),
    Header(envelope.PRIORITY, "lower goes first, as in vLLM; 0 where it is missing"),
    Header(envelope.PATIENCE, "seconds that it may wait in a router"),
    Header(envelope.TIMEOUT, "seconds until nobody wants the answer any more"),
    Header(envelope.PREFIX, "digests of the prompt's beginnings, shortest first, with commas"),
    Header(envelope.KEEP, "1: it runs to its end even where no gateway waits for the answer"),
    Header(envelope.CONTINUES, "how it goes on after an earlier attempt: again or rest"),
    Header(envelope.TOKENS, "token ids are asked for too: shown to the client, or tracked only"),
)

_PIECE_HEADERS = (
    Header(envelope.CHUNK, "0, 1, 2 ... without gaps; -1 says only who has taken it", needed=True),
    Header(envelope.ATTEMPT, "the request's; 1 where it is missing"),
    Header(envelope.STATUS, "the HTTP status, on the first piece only"),
    Header(envelope.CONTENT_TYPE, "of the body, beside the status"),
    Header(envelope.REPLICA, "the replica that answers"),
    Header(envelope.QUEUED, "the router in whose line the request waits"),
    Header(envelope.CONTINUES, "on the first piece: as in the request"),
    Header(envelope.RETRY_AFTER, "seconds after which asking again may help"),
    Header(envelope.END, "1 on the piece that closes the answer"),
    Header(
        envelope.FAILURE,
        f"why there is no further answer: {inference.REFUSED}, {inference.ENGINE_FAILED}, "
        f"{inference.ENGINE_STOPPED} or {inference.OTHER_PLAN}",
    ),
)

MEANINGS = {
    "id": "id of the model, replica, node or alias",
    "seq": "sequence of the event that was not acted upon",
    "model": f"id of the model: {ID}",
    "replica": "id of the replica: the model's id, `-`, a number",
    "node": f"name of the node: {ID}",
    "gateway": "id of the gateway that waits for the answer",
    "request": "id of the request",
    "router": "id of the router",
    "server": "name of the NATS server; the one that `nebula up` runs is called nebula",
}
"""What the parameters in addresses stand for."""

OTHERS = (
    Channel(
        "requests",
        subjects.requests("{model}"),
        "receive",
        "A gateway asks for a model; one router takes it.",
        "the HTTP request's body, as the client sent it",
        _REQUEST_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "routerRequests",
        subjects.router_requests("{model}", "{router}"),
        "receive",
        "A gateway asks one router, whose heartbeat says that it is addressed, for a model.",
        "the HTTP request's body, as the client sent it",
        _REQUEST_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "replicaRequests",
        subjects.replica_requests("{model}", "{replica}"),
        "send",
        "A router hands a request to one replica's engine.",
        "the HTTP request's body, as the client sent it",
        (
            *_REQUEST_HEADERS,
            Header(envelope.PLAN, "version of the plan that the replica's engine is to run for"),
            Header(envelope.ROUTED, "JSON: which router, as of which event, and the candidates"),
        ),
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "responses",
        subjects.responses("{gateway}", "{request}"),
        "send",
        "An engine answers a request, in numbered pieces.",
        "a piece of the HTTP answer's body; without headers it is the gateway's own note for "
        "whoever resumes the answer, and has what `cancel` has",
        _PIECE_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "claims",
        subjects.claim("{request}"),
        "send",
        "A gateway claims a request that is to be resumable: the first claim counts.",
        "the request's body",
        (
            *_REQUEST_HEADERS,
            Header(envelope.MODEL, "id of the model", needed=True),
            Header(envelope.FINGERPRINT, "hash of path and body", needed=True),
            Header(envelope.CLAIMANT, "something that no other claim has", needed=True),
        ),
        stream="NEBULA_CLAIMS",
    ),
    Channel(
        "cancel",
        subjects.cancel("{model}", "{request}"),
        "receive",
        "Whoever has the request, a router or an engine, ends it at once.",
        "a number: only attempts below it; else all, and the reason",
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "finished",
        subjects.finished("{model}"),
        "send",
        "An engine is done with requests, whatever way they ended.",
        Finished,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "waiting",
        subjects.waiting("{gateway}"),
        "receive",
        "An engine asks which of its requests anybody waits for; the reply names the others.",
        StillWanted,
        reply=Unwanted,
    ),
    Channel(
        "routerStatus",
        subjects.router_status("{router}"),
        "send",
        "A router's heartbeat, and how many requests wait in it.",
        RouterStatus,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "nodeStatus",
        subjects.node_status("{node}"),
        "send",
        "A node's heartbeat.",
        NodeStatus,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "replicaStatus",
        subjects.replica_status("{model}", "{replica}"),
        "send",
        "An engine's heartbeat and load.",
        ReplicaStatus,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "storeStatus",
        subjects.store_status("{server}"),
        "send",
        "The heartbeat of the NATS server that `nebula up` runs: room, and whether it can write.",
        StoreStatus,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "logs",
        subjects.logs("{node}"),
        "receive",
        "Somebody wants lines of an engine's log.",
        LogRequest,
        reply=LogReply,
    ),
)
"""All subjects that carry no events."""


def kind_of(name: str) -> Kind:
    """Say who writes a type of event: anyone, a router, or the actor that it happened to."""
    if name in INTENTS:
        return "intent"
    return "decision" if issubclass(TYPES[name], Decided) else "fact"


def event_channels() -> tuple[Channel, ...]:
    """Give a channel for every type of event, in the vocabulary's order."""
    return tuple(_event(name) for name in TYPES)


def _event(name: str) -> Channel:
    aggregate = AGGREGATE_OF[name]
    identity = "{seq}" if aggregate == "log" else "{id}"
    return Channel(
        name,
        f"{subjects.EVENTS.rstrip('>')}{aggregate}.{identity}.{name}",
        "receive" if kind_of(name) == "intent" else "send",
        _summary(TYPES[name]),
        TYPES[name],
        EVENT_HEADERS,
        stream="NEBULA_EVENTS",
    )


def _summary(kind: type[Struct]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
