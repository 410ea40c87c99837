"""The subjects of all messages on NATS, and the ids that they may contain.

Ids are single subject tokens, so that no chosen name can reach a foreign subject.
"""

import hashlib
import re

EVENTS = "nebula.events.>"
MODEL_EVENTS = "nebula.events.model.>"
NODE_EVENTS = "nebula.events.node.>"
BATCH_EVENTS = "nebula.events.batch.>"
KEY_EVENTS = "nebula.events.key.>"
CLUSTER_EVENTS = "nebula.events.cluster.>"
STATUS = "nebula.status.>"
INFERENCE = "nebula.inference.>"
CLAIMS = "nebula.claims.*"
BATCH_LINES = "nebula.batches.lines.*.*"
BATCH_RESULTS = "nebula.batches.results.*.*"
BATCH_LEASES = "nebula.batches.leases.*"
LEDGER = "nebula.ledger.*.*"
USAGE_EVENTS = "nebula.events.usage.>"
USAGE = "nebula.usage.*.*"
DEMAND = "nebula.demand.*"
STORED = "nebula.stored.>"
BACKGROUND = "nebula.stored.background.*"
OVER = "nebula.over.*"
REQUESTS = "nebula.inference.requests.*"
ALL_REQUESTS = "nebula.inference.requests.>"
FINISHED = "nebula.inference.finished.*"
CANCELS = "nebula.inference.cancel.*.*"
REPLICA_STATUS = "nebula.status.replica.*.*"
ROUTER_STATUS = "nebula.status.router.*"
NODE_STATUS = "nebula.status.node.*"
STORE_STATUS = "nebula.status.store.*"
CACHES = "nebula.cache.*.*"
CAPTURED = "nebula.captured.*"
LEASES_RECALLED = "nebula.leases.recalled.*.*"
IN_FLIGHT = "nebula.inflight.list"
"""The request-reply subject on which all gateways and routers tell which requests are in flight."""
CANCEL_IN_FLIGHT = "nebula.inflight.cancel"
"""The request-reply subject on which the gateway that has a request cancels it."""

ID_FORM = "letters, digits, '_' and '-' only, 128 at most"
"""The form of an id, in words."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def is_token(text: str) -> bool:
    """Return whether `text` is a valid id: one subject token of `[A-Za-z0-9_-]`, at most 128."""
    return _TOKEN.fullmatch(text) is not None


def model_id(name: str) -> str:
    """Return the id for a model's public name: the name itself if it is a token.

    Any other name becomes a similar token with ten digits of the name's hash, so that two names
    never share an id.
    """
    if is_token(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:100]
    return f"{readable}-{digest}" if readable else f"model-{digest}"


def default_id(source: str, name: str = "") -> str:
    """Return the id of a model that was requested without one: from its name, else its source."""
    return model_id(name or source.rstrip("/").rpartition("/")[2] or source)


def event(aggregate: str, identity: str, event_type: str, node: str = "") -> str:
    """Return the subject that an event is stored under. Raise ValueError for an unsafe id.

    `node`: the node that reports it about something else than itself, if any.
    """
    for each in (identity, node) if node else (identity,):
        if not is_token(each):
            raise ValueError(f"{each!r} is not a valid id: use {ID_FORM}")
    subject = f"nebula.events.{aggregate}.{identity}.{event_type}"
    return f"{subject}.{node}" if node else subject


def events_of(aggregate: str, identity: str, event_type: str = "") -> str:
    """Return the pattern of the subjects of an aggregate's events.

    `event_type`: only of this type, which no node reports.
    """
    return f"nebula.events.{aggregate}.{identity}.{event_type or '>'}"


def batch_line(batch: str, line: str) -> str:
    """Return the subject on which a line of a batch waits to be sent, by its number."""
    return f"nebula.batches.lines.{batch}.{line}"


def batch_result(batch: str, line: str) -> str:
    """Return the subject of the result of a batch's line: the first message counts."""
    return f"nebula.batches.results.{batch}.{line}"


def batch_lease(batch: str) -> str:
    """Return the subject on which the gateway that keeps a batch says so from time to time."""
    return f"nebula.batches.leases.{batch}"


def account(kind: str, subject: str) -> str:
    """Return the subject of the account of what a key, a tenant or a model uses of its limits."""
    return f"nebula.ledger.{kind}.{subject}"


def usage_of_requests(run: str) -> str:
    """Return the subject on which one run of a gateway writes what its requests used."""
    return f"nebula.usage.requests.{run}"


def usage_once(record: str) -> str:
    """Return the subject of what one thing used that several gateways may do: the first counts."""
    return f"nebula.usage.once.{record}"


def demand(router: str) -> str:
    """Return the subject on which a router writes what it could not serve at once."""
    return f"nebula.demand.{router}"


def requests(model: str) -> str:
    """Return the subject on which gateways ask for a model and routers listen."""
    return f"nebula.inference.requests.{model}"


def router_requests(model: str, router: str) -> str:
    """Return the subject on which gateways ask one router for a model."""
    return f"nebula.inference.requests.{model}.{router}"


def replica_requests(model: str, replica: str) -> str:
    """Return the subject on which a router hands a request to one replica's engine."""
    return f"nebula.inference.replicas.{model}.{replica}"


def responses(gateway: str, request: str) -> str:
    """Return the subject of one request's answer: the pieces of engines, and the gateway's notes.

    They share one subject without wildcards, which the NATS server can look up most cheaply.
    """
    return f"nebula.inference.responses.{gateway}.{request}"


def bundles(gateway: str, model: str, replica: str) -> str:
    """Return the subject of an engine's bundles: pieces of several answers for one gateway."""
    return f"nebula.inference.bundles.{gateway}.{model}.{replica}"


def cancel(model: str, request: str) -> str:
    """Return the subject that ends one request, whichever router or replica of the model has it."""
    return f"nebula.inference.cancel.{model}.{request}"


def waiting(gateway: str) -> str:
    """Return the subject on which engines ask a gateway which requests are still wanted.

    It is in no stream: if the gateway no longer listens, NATS itself replies so.
    """
    return f"nebula.waiting.{gateway}"


def bodies(gateway: str) -> str:
    """Return the request-reply subject on which a gateway hands out large bodies in parts."""
    return f"nebula.bodies.{gateway}"


def pushed_bodies(model: str, replica: str) -> str:
    """Return the subject on which a gateway sends the bodies of requests to a replica's engine.

    It is in no stream: what is lost is fetched.
    """
    return f"nebula.pushed.{model}.{replica}"


def claim(slot: str) -> str:
    """Return the subject on which gateways claim a request that is to be resumable: the first wins.

    A gateway that resumes it finds the original request here. `slot`: the end of the request's id,
    by which a repeated request finds the whole id.
    """
    return f"nebula.claims.{slot}"


def background(response: str) -> str:
    """Return the subject of a response that is to be made without a client that waits.

    Workers take it from there, and it is the first part of what is stored of it.
    """
    return f"nebula.stored.background.{response}"


def stored_response(response: str) -> str:
    """Return the subject of what has become of a response."""
    return f"nebula.stored.responses.{response}"


def stored_key(key: str) -> str:
    """Return the subject of an `Idempotency-Key` that stands for a stored response.

    `key`: a hash of the key and of its owner.
    """
    return f"nebula.stored.keys.{key}"


def conversation(conversation: str) -> str:
    """Return the subject of a conversation."""
    return f"nebula.stored.conversations.{conversation}"


def over(response: str) -> str:
    """Return the subject on which workers hear that a response was cancelled or deleted.

    It is in no stream: a worker that misses it finds out a little later.
    """
    return f"nebula.over.{response}"


def finished(model: str) -> str:
    """Return the subject on which engines tell all routers that a request has ended."""
    return f"nebula.inference.finished.{model}"


def node_status(node: str) -> str:
    """Return the subject of a node's heartbeat."""
    return f"nebula.status.node.{node}"


def replica_status(model: str, replica: str) -> str:
    """Return the subject of a replica's heartbeat and load."""
    return f"nebula.status.replica.{model}.{replica}"


def cache(model: str, replica: str) -> str:
    """Return the subject on which a replica's engine tells what its prefix cache holds."""
    return f"nebula.cache.{model}.{replica}"


def router_status(router: str) -> str:
    """Return the subject of a router's heartbeat, with its queues."""
    return f"nebula.status.router.{router}"


def store_status(server: str) -> str:
    """Return the subject of the heartbeat of a NATS server's store, by the server's name."""
    return f"nebula.status.store.{server}"


def gateway_metrics() -> str:
    """Return the request-reply subject on which all gateways tell where their metrics are."""
    return "nebula.metrics.gateways"


def router_metrics(router: str) -> str:
    """Return the request-reply subject on which a router tells its metrics."""
    return f"nebula.metrics.router.{router}"


def node_metrics(node: str) -> str:
    """Return the request-reply subject on which a node tells its metrics and its engines'."""
    return f"nebula.metrics.node.{node}"


def leases_asked(gateway: str, router: str) -> str:
    """Return the subject on which a gateway reports to a router, which lends it replicas."""
    return f"nebula.leases.asked.{gateway}.{router}"


def leases_granted(gateway: str, router: str) -> str:
    """Return the subject on which a router answers such a report."""
    return f"nebula.leases.granted.{gateway}.{router}"


def leases_recalled(model: str, router: str) -> str:
    """Return the subject on which a router tells that clients begin to wait for a model."""
    return f"nebula.leases.recalled.{model}.{router}"


def captured(request: str) -> str:
    """Return the subject of a request that was captured."""
    return f"nebula.captured.{request}"


def logs(node: str) -> str:
    """Return the request-reply subject on which a node answers with lines of an engine's log."""
    return f"nebula.logs.{node}"
