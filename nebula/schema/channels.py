"""Every subject that Nebula uses: what is sent there, with which headers and which body."""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events import bundles, envelope, subjects
from nebula.events.cache_news import CacheNews
from nebula.events.captured import CapturedRequest
from nebula.events.demand import DemandRecord
from nebula.events.heartbeats import (
    NodeHeartbeat,
    ReplicaHeartbeat,
    RouterHeartbeat,
    StoreHeartbeat,
)
from nebula.events.inference import Finished
from nebula.events.leases import LeasesAsked, LeasesGranted
from nebula.events.usage import UsageRecords
from nebula.events.vocabulary import AGGREGATE_OF, INTENTS, REPORTS, TYPES, Decided
from nebula.schema.channel import ID, Channel
from nebula.schema.message_headers import (
    EVENT_HEADERS,
    PIECE_HEADERS,
    REQUEST_HEADERS,
    Header,
)
from nebula.schema.question_channels import QUESTIONS
from nebula.store import batch_queue, captures, demand, ledger, usage
from nebula.store.batch_queue import QueuedLine
from nebula.store.responses import STREAM

Kind: TypeAlias = Literal["intent", "decision", "fact"]

MEANINGS = {
    "kind": "`key`, `tenant` or `model`.",
    "subject": "Id of that key, tenant or model.",
    "id": "Id of the model, replica, node, alias, batch, capture or cluster.",
    "seq": "Sequence of the event that was rejected.",
    "model": f"Id of the model: {ID}.",
    "replica": "Id of the replica: the model's id, `-`, a number.",
    "node": f"Name of the node: {ID}.",
    "gateway": "Id of the gateway that waits for the answer.",
    "request": "Id of the request.",
    "slot": "The last 16 characters of the request's id.",
    "router": "Id of the router.",
    "batch": "Id of the batch.",
    "run": "Id of a gateway, `-`, and what no other run of it has.",
    "record": "Id of the record: of a request, of a response, or of a batch and its line.",
    "response": "Id of the response.",
    "conversation": "Id of the conversation.",
    "key": "Hash of the key and of its owner.",
    "line": "Number of the line in the batch's input, from 1.",
    "server": "Name of the NATS server; the server of `nebula up` is called `nebula`.",
}
"""What the parameters in addresses stand for."""

OTHERS = (
    Channel(
        "requests",
        subjects.requests("{model}"),
        "receive",
        "A gateway sends a request for a model; one router takes it.",
        "the body of the HTTP request, as the client sent it",
        REQUEST_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "routerRequests",
        subjects.router_requests("{model}", "{router}"),
        "receive",
        "A gateway sends a request to one router whose heartbeat says `addressed`.",
        "the body of the HTTP request, as the client sent it",
        REQUEST_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "replicaRequests",
        subjects.replica_requests("{model}", "{replica}"),
        "send",
        "A router, or a gateway under a lease, sends a request to the engine of one replica.",
        "the body of the HTTP request, as the client sent it",
        (
            *(each for each in REQUEST_HEADERS if each.name != envelope.VERSION),
            Header(envelope.VERSION, "Digest of the adapter's version that must answer."),
            Header(envelope.PLAN, "Version of the plan that the replica's engine must run for."),
            Header(
                envelope.ROUTED,
                "JSON: the router, the last event it had folded, the candidates, and the seconds "
                "that the request queued; with a gateway's id, that gateway chose under a lease.",
            ),
        ),
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "pushedBodies",
        subjects.pushed_bodies("{model}", "{replica}"),
        "send",
        "A gateway sends the body of a request that it has sent to a replica under a lease.",
        "the body of the HTTP request, as the client sent it",
        (Header(envelope.REQUEST, "Id of the request.", needed=True),),
    ),
    Channel(
        "leasesAsked",
        subjects.leases_asked("{gateway}", "{router}"),
        "receive",
        "A gateway reports what it has at replicas directly, and asks for leases.",
        LeasesAsked,
    ),
    Channel(
        "leasesGranted",
        subjects.leases_granted("{gateway}", "{router}"),
        "send",
        "A router answers such a report, and lends the gateway requests of replicas.",
        LeasesGranted,
    ),
    Channel(
        "leasesRecalled",
        subjects.leases_recalled("{model}", "{router}"),
        "send",
        "Clients begin to wait for a model in a router: gateways give its leases back.",
        "none",
    ),
    Channel(
        "responses",
        subjects.responses("{gateway}", "{request}"),
        "send",
        "An engine answers a request in numbered pieces.",
        "a part of the HTTP answer's body. A message without headers is the gateway's own note for "
        "gateways that resume the answer; its body is that of `cancel`",
        PIECE_HEADERS,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "bundles",
        subjects.bundles("{gateway}", "{model}", "{replica}"),
        "send",
        "An engine tells a gateway pieces of several answers, which it made in one turn.",
        "the pieces' bodies, one behind the other",
        (
            Header(
                bundles.PIECE,
                "For each piece a line: the request's id, the bytes of the piece's body, and its "
                "number, or all headers of its own message as JSON.",
                needed=True,
            ),
        ),
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "claims",
        subjects.claim("{slot}"),
        "send",
        "A gateway claims a request that is to be resumable: the first claim counts.",
        "none; the headers say what was requested",
        (
            *REQUEST_HEADERS,
            Header(envelope.MODEL, "Id of the model.", needed=True),
            Header(envelope.FINGERPRINT, "Hash of the path and the body.", needed=True),
            Header(envelope.CLAIMANT, "Text that no other claim has.", needed=True),
            Header(envelope.STREAM, "`1`: the client asked for a stream."),
        ),
        stream="NEBULA_CLAIMS",
    ),
    Channel(
        "ledger",
        subjects.account("{kind}", "{subject}"),
        "send",
        "The account of what a key, a tenant or a model (`kind`) uses of its limits. A gateway "
        "replaces the last account that it has seen, and no other one.",
        "the account as JSON: what is spent of each limit in its window, and what gateways hold",
        (
            Header(
                "Nats-Expected-Last-Subject-Sequence",
                "Sequence of the account that is replaced.",
                needed=True,
            ),
        ),
        stream=ledger.STREAM,
    ),
    Channel(
        "batchLines",
        subjects.batch_line("{batch}", "{line}"),
        "send",
        "A line of a batch waits until a gateway has sent it and stored its result.",
        QueuedLine,
        stream=batch_queue.LINES,
    ),
    Channel(
        "batchResults",
        subjects.batch_result("{batch}", "{line}"),
        "send",
        "What came of a line of a batch: the first message counts.",
        "the line of the output or of the errors; empty if a file has it",
        (
            Header(batch_queue.OUTCOME, "`completed`, `failed` or `none`.", needed=True),
            Header(batch_queue.FILE, "Id of the file that has it, if it is too large."),
            Header(batch_queue.USAGE, "The record of what it used, as JSON; none for nothing."),
        ),
        stream=batch_queue.RESULTS,
    ),
    Channel(
        "batchLeases",
        subjects.batch_lease("{batch}"),
        "send",
        "The gateway that keeps a batch says so every few seconds.",
        "text that only this gateway has",
        stream=batch_queue.RESULTS,
    ),
    Channel(
        "usageOfRequests",
        subjects.usage_of_requests("{run}"),
        "send",
        "A gateway writes what requests used whose answers have ended.",
        UsageRecords,
        (
            Header(usage.MESSAGE, "Id of the message: the run, `-`, its number.", needed=True),
            Header(
                "Nats-Expected-Last-Subject-Sequence",
                "Sequence of the run's last message: none is stored twice.",
                needed=True,
            ),
        ),
        stream=usage.STREAM,
    ),
    Channel(
        "usageOnce",
        subjects.usage_once("{record}"),
        "send",
        "What a request used that several gateways may have served: the first message counts.",
        UsageRecords,
        stream=usage.STREAM,
    ),
    Channel(
        "captured",
        subjects.captured("{request}"),
        "send",
        "A gateway writes a request that was captured, redacted, with what came of it.",
        CapturedRequest,
        stream=captures.STREAM,
    ),
    Channel(
        "demand",
        subjects.demand("{router}"),
        "send",
        "A router writes after a minute which requests it refused, and which waited for engines.",
        DemandRecord,
        stream=demand.STREAM,
    ),
    Channel(
        "background",
        subjects.background("{response}"),
        "send",
        "A response that is made without a client that waits: a gateway takes it from here.",
        "JSON: `head` (whose response it is), `body` of the request to the engine, and the queued "
        "`response`",
        stream=STREAM,
    ),
    Channel(
        "storedResponses",
        subjects.stored_response("{response}"),
        "send",
        "What becomes of a response: an entry for each step, the first end counts.",
        "JSON with the kind of entry in `type`: `began`, `progress`, `broke`, `ended`, `deleted`",
        stream=STREAM,
    ),
    Channel(
        "storedKeys",
        subjects.stored_key("{key}"),
        "send",
        "The response that an `Idempotency-Key` stands for: the first message counts.",
        "JSON: `id` of the response, `fingerprint` of the request",
        stream=STREAM,
    ),
    Channel(
        "conversations",
        subjects.conversation("{conversation}"),
        "send",
        "A conversation with all its items; each message takes the place of the last one.",
        "JSON: `id`, `owner`, `created`, `metadata`, `items`",
        stream=STREAM,
    ),
    Channel(
        "over",
        subjects.over("{response}"),
        "send",
        "A response was cancelled or deleted: the gateway that makes it leaves it.",
        "none",
    ),
    Channel(
        "cancel",
        subjects.cancel("{model}", "{request}"),
        "receive",
        "The router or engine that has the request ends it at once.",
        "a number, to cancel only the attempts below it; any other text cancels all attempts and "
        "is the reason",
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "finished",
        subjects.finished("{model}"),
        "send",
        "An engine tells every router which requests it has finished, however they ended.",
        Finished,
        stream="NEBULA_INFERENCE",
    ),
    Channel(
        "cache",
        subjects.cache("{model}", "{replica}"),
        "send",
        "An engine tells routers, and gateways with leases, what its prefix cache holds.",
        CacheNews,
    ),
    Channel(
        "routerStatus",
        subjects.router_status("{router}"),
        "send",
        "The heartbeat of a router, with its queues.",
        RouterHeartbeat,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "nodeStatus",
        subjects.node_status("{node}"),
        "send",
        "The heartbeat of a node.",
        NodeHeartbeat,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "replicaStatus",
        subjects.replica_status("{model}", "{replica}"),
        "send",
        "The heartbeat of a replica's engine, with its load.",
        ReplicaHeartbeat,
        stream="NEBULA_STATUS",
    ),
    Channel(
        "storeStatus",
        subjects.store_status("{server}"),
        "send",
        "The heartbeat of the NATS server that `nebula up` runs: whether its store takes events.",
        StoreHeartbeat,
        stream="NEBULA_STATUS",
    ),
    *QUESTIONS,
)
"""All subjects that carry no events."""


def kind_of(name: str) -> Kind:
    """Return what an event is: an intent (anyone), a decision (routers) or a fact (actors)."""
    if name in INTENTS:
        return "intent"
    return "decision" if issubclass(TYPES[name], Decided) else "fact"


def event_channels() -> tuple[Channel, ...]:
    """Return a channel for every type of event, in the vocabulary's order."""
    return tuple(_event(name) for name in TYPES)


def _event(name: str) -> Channel:
    aggregate = AGGREGATE_OF[name]
    identity = "{seq}" if aggregate == "log" else "{id}"
    address = f"{subjects.EVENTS.rstrip('>')}{aggregate}.{identity}.{name}"
    reported = name in REPORTS
    return Channel(
        name,
        f"{address}.{{node}}" if reported else address,
        "receive" if kind_of(name) == "intent" else "send",
        _summary(TYPES[name]),
        TYPES[name],
        EVENT_HEADERS,
        stream="NEBULA_EVENTS",
        older=address if reported else "",
    )


def _summary(kind: type[Struct]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
