"""Requests and answers as they travel on NATS: which headers mean what. Pure.

A request is one message. Its answer is a numbered run of messages on the request's own subject:
perhaps one that only says which replica has it (`accepted`), then the head with the HTTP status,
the body in pieces, and one that ends it. A short answer is a single message that is all of it.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

PATH = "Nebula-Path"
REQUEST = "Nebula-Request"
GATEWAY = "Nebula-Gateway"
ADAPTER = "Nebula-Adapter"
CONTENT_TYPE = "Content-Type"
CHUNK = "Nebula-Chunk"
STATUS = "Nebula-Status"
REPLICA = "Nebula-Replica"
END = "Nebula-End"
FAILURE = "Nebula-Failure"
ROUTED = "Nebula-Routed"

NO_REPLICA = "no-replica"
ENGINE_FAILED = "engine-failed"
ENGINE_STOPPED = "engine-stopped"

HEADER_ROOM = 16 * 1024
"""Bytes kept free of a message's body: NATS counts headers towards its payload limit."""


class Request(Struct, frozen=True):
    """One HTTP request on its way to an engine."""

    id: str
    gateway: str
    model: str
    path: str
    body: bytes
    adapter: str = ""
    content_type: str = "application/json"


class Piece(Struct, frozen=True):
    """One message of an answer.

    `chunk` counts from 0 without gaps; -1 for `accepted`, which carries nothing else. `status` is
    the HTTP status, on the head only. `end` closes the answer. `failure` says why there is no
    (further) answer: one of this module's constants.
    """

    chunk: int
    body: bytes = b""
    status: int = 0
    content_type: str = ""
    replica: str = ""
    end: bool = False
    failure: str = ""


def request_headers(request: Request) -> dict[str, str]:
    """Give the headers of a request message; the model is in the subject."""
    headers = {
        REQUEST: request.id,
        GATEWAY: request.gateway,
        PATH: request.path,
        CONTENT_TYPE: request.content_type,
    }
    if request.adapter:
        # Names may be any script; NATS headers are safest as ASCII.
        headers[ADAPTER] = request.adapter.encode().hex()
    return headers


def read_request(model: str, headers: Mapping[str, str] | None, body: bytes) -> Request | None:
    """Read a request message; None for one that no gateway sent."""
    if not headers or not headers.get(REQUEST) or not headers.get(GATEWAY):
        return None
    path = headers.get(PATH, "")
    if not path.startswith("/"):
        return None
    try:
        adapter = bytes.fromhex(headers.get(ADAPTER, "")).decode()
    except ValueError:
        return None
    return Request(
        headers[REQUEST],
        headers[GATEWAY],
        model,
        path,
        body,
        adapter,
        headers.get(CONTENT_TYPE, "application/json"),
    )


def piece_headers(piece: Piece) -> dict[str, str]:
    """Give the headers of one message of an answer."""
    headers = {CHUNK: str(piece.chunk)}
    if piece.status:
        headers[STATUS] = str(piece.status)
        headers[CONTENT_TYPE] = piece.content_type
    if piece.replica:
        headers[REPLICA] = piece.replica
    if piece.end:
        headers[END] = "1"
    if piece.failure:
        headers[FAILURE] = piece.failure
    return headers


def read_piece(headers: Mapping[str, str] | None, body: bytes) -> Piece | None:
    """Read one message of an answer; None for anything else."""
    if not headers:
        return None
    try:
        chunk = int(headers[CHUNK])
        status = int(headers.get(STATUS, "0"))
    except (KeyError, ValueError):
        return None
    return Piece(
        chunk,
        body,
        status,
        headers.get(CONTENT_TYPE, ""),
        headers.get(REPLICA, ""),
        END in headers,
        headers.get(FAILURE, ""),
    )


class RoutedCandidate(Struct, frozen=True, array_like=True):
    """A replica that could have had a request, and what the router knew of its load."""

    replica: str
    in_flight: int
    silent: bool = False


class Routed(Struct, frozen=True):
    """Why a request went where it went: who sent it, from the state at `seq`, and among whom."""

    router: str
    seq: int
    candidates: tuple[RoutedCandidate, ...]


_routed = msgspec.json.Decoder(Routed)


def routed_header(routed: Routed) -> str:
    """Write a router's choice as one header of the message that it sends on."""
    return msgspec.json.encode(routed).decode()


def read_routed(headers: Mapping[str, str]) -> Routed | None:
    """Read a router's choice; None where there is none, or it makes no sense."""
    try:
        return _routed.decode(headers.get(ROUTED, ""))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Finished(Struct, frozen=True):
    """An engine is done with a request, whatever way it ended; told to every router."""

    request: str
    replica: str


class ReplicaStatus(Struct, frozen=True):
    """A replica's heartbeat. `running` counts the requests its engine is working on."""

    replica: str
    pid: int
    running: int
    version: int


class NodeStatus(Struct, frozen=True):
    """A node's heartbeat. `engines` counts the engine processes it keeps; memory in bytes."""

    node: str
    pid: int
    engines: int
    memory_free: int
