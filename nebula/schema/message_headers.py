"""The headers of Nebula's messages: of events, of requests, and of the pieces of answers."""

from msgspec import Struct

from nebula.events import envelope, record
from nebula.events.failures import Failure
from nebula.events.original import ORIGINAL_HEADER


class Header(Struct, frozen=True):
    """A header of a message, and whether every message needs it."""

    name: str
    meaning: str
    needed: bool = False


EVENT_HEADERS = (
    Header("Nats-Msg-Id", "Id by which JetStream drops a repeated message for two minutes."),
    Header(record.VERSION_HEADER, "Version of the event's payload; 1 if missing."),
    Header(record.CAUSE_HEADER, "Sequence of the event that led to this one."),
    Header(
        record.BASIS_HEADER, "Sequence of the last event that the router had folded to decide this."
    ),
    Header(record.ACTOR_HEADER, "The actor that wrote the event."),
    Header(
        record.BY_HEADER,
        "The principal of it: `key:ID`, `anonymous`, `person:NAME` or `cli:USER@HOST`; the actor "
        "if missing.",
    ),
    Header(
        ORIGINAL_HEADER,
        "On imported events: the original time in nanoseconds and the original headers in base64.",
    ),
)

REQUEST_HEADERS = (
    Header(envelope.REQUEST, "Id of the request, as in the answer's `x-request-id`.", needed=True),
    Header(envelope.GATEWAY, "Id of the gateway that waits for the answer.", needed=True),
    Header(envelope.PATH, "Path of the HTTP request, as `/v1/chat/completions`.", needed=True),
    Header(envelope.ADAPTER, "Name of the adapter: its UTF-8 as hexadecimal digits."),
    Header(envelope.CONTENT_TYPE, "Media type of the body; `application/json` if missing."),
    Header(envelope.ATTEMPT, "Number of the attempt, from 1: a later one follows a failed engine."),
    Header(envelope.AVOID, "Id of the replica that has just failed it: others are preferred."),
    Header(envelope.GONE, "`1`: the replica in `Nebula-Avoid` was stopped or fell silent."),
    Header(
        envelope.USER,
        "User that fairness counts the request for: a hash of the API key, `/`, a hash of `user`.",
    ),
    Header(envelope.PRIORITY, "Priority as in vLLM: a lower number goes first; 0 if missing."),
    Header(envelope.PATIENCE, "Seconds that the request may queue in a router."),
    Header(envelope.TIMEOUT, "Seconds until the client stops waiting for the answer."),
    Header(
        envelope.PREFIX, "Digests of the prompt's beginnings, shortest first, separated by commas."
    ),
    Header(envelope.KEEP, "`1`: it runs to its end even if no gateway waits for the answer."),
    Header(
        envelope.CONTINUES,
        "How the answer continues an earlier attempt's: `again` from the start, or its `rest`.",
    ),
    Header(
        envelope.TOKENS,
        "The engine sends token ids too: `shown` to the client, or `tracked` by the gateway only; "
        "or its `usage`, for the gateway only.",
    ),
    Header(envelope.VERSION, "Digest of the adapter's version that must answer."),
    Header(envelope.QUERY, "Query string of the HTTP request, without `?`."),
    Header(
        envelope.FIELDS,
        "Header fields that the engine gets too: pairs as JSON. `traceparent` and `tracestate` are "
        "those of the attempt, where its gateway makes traces.",
    ),
    Header(envelope.SLACK, "`1`: it takes spare capacity only, behind all that clients wait for."),
    Header(
        envelope.SIZE,
        "Bytes of a body that is not in this message: `nebula.bodies.GATEWAY` hands it out.",
    ),
    Header(
        envelope.PUSHED,
        "`1`: `nebula.pushed.MODEL.REPLICA` brings that body, right behind this message.",
    ),
    Header(envelope.CALLER_IDS, "Ids that the caller gave the request, separated by spaces."),
    Header(
        envelope.BUNDLED,
        "`1`: pieces of its answer may come in bundles on "
        "`nebula.inference.bundles.GATEWAY.MODEL.REPLICA`.",
    ),
)

PIECE_HEADERS = (
    Header(
        envelope.CHUNK,
        "Number of the piece, from 0 without gaps; -1 for a note that only tells which replica or "
        "router has the request.",
        needed=True,
    ),
    Header(envelope.ATTEMPT, "Attempt of the request that this answers; 1 if missing."),
    Header(envelope.STATUS, "HTTP status, on the first piece only."),
    Header(envelope.CONTENT_TYPE, "Media type of the body, on the first piece only."),
    Header(envelope.REPLICA, "Id of the replica that answers."),
    Header(envelope.QUEUED, "Id of the router that has queued the request."),
    Header(envelope.CONTINUES, "As in the request, on the first piece only."),
    Header(envelope.VERSION, "Digest of the adapter's version, on the first piece only."),
    Header(envelope.FIELDS, "Further header fields, as JSON, on the first piece only."),
    Header(envelope.RETRY_AFTER, "Seconds after which another try may succeed."),
    Header(envelope.END, "`1` on the piece that ends the answer."),
    Header(
        envelope.FAILURE,
        f"Why the answer ends here: `{Failure.REFUSED}`, `{Failure.ENGINE_FAILED}`, "
        f"`{Failure.ENGINE_STOPPED}`, `{Failure.OTHER_PLAN}` or `{Failure.OTHER_VERSION}`.",
    ),
)
