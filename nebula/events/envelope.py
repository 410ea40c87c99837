"""The headers of messages on NATS, and those of requests, written and read. Pure."""

import functools
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from nebula.events import carried_fields
from nebula.events.inference import Request, Routed
from nebula.events.reading import UNREADABLE, number
from nebula.events.record import parse_headers
from nebula.events.subjects import is_token

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
PLAN = "Nebula-Plan"
ATTEMPT = "Nebula-Attempt"
AVOID = "Nebula-Avoid"
GONE = "Nebula-Gone"
USER = "Nebula-User"
PRIORITY = "Nebula-Priority"
PATIENCE = "Nebula-Patience"
TIMEOUT = "Nebula-Timeout"
PREFIX = "Nebula-Prefix"
KEEP = "Nebula-Keep"
CONTINUES = "Nebula-Continues"
TOKENS = "Nebula-Tokens"
MODEL = "Nebula-Model"
FINGERPRINT = "Nebula-Fingerprint"
CLAIMANT = "Nebula-Claimant"
STREAM = "Nebula-Stream"
QUEUED = "Nebula-Queued"
RETRY_AFTER = "Nebula-Retry-After"
VERSION = "Nebula-Adapter-Version"
QUERY = "Nebula-Query"
FIELDS = "Nebula-Fields"
SIZE, PUSHED = "Nebula-Body-Size", "Nebula-Body-Pushed"
SLACK = "Nebula-Slack"
CALLER_IDS = "Nebula-Caller-Ids"
BUNDLED = "Nebula-Bundled"

JSON = "application/json"
"""The Content-Type of nearly all requests."""

COMMON_SIZE = 1024
"""Characters of header fields, and bytes of a block, above which they are not cached."""

HEADER_ROOM = 16 * 1024
"""Bytes kept free of a message's body: NATS counts headers towards its payload limit."""


def block(headers: Mapping[str, str]) -> bytes:
    """Return headers in the wire format of NATS (NATS ADR-4)."""
    lines = [f"{key}: {value}\r\n" for key, value in headers.items()]
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def request_block(request: Request) -> bytes:
    """Return the header block of a request message; the part that most share is cached."""
    kind = request.content_type if request.content_type == JSON else ""
    common = _common_block(request.gateway, request.path, kind, request.patience, request.bundled)
    own = "".join([f"{key}: {value}\r\n" for key, value in _own_headers(request).items()])
    return b"%b%b\r\n" % (common, own.encode())


@functools.lru_cache(maxsize=256)
def _common_block(
    gateway: str, path: str, content_type: str, patience: float, bundled: bool
) -> bytes:
    return block(_common_headers(gateway, path, content_type, patience, bundled))[:-2]


def _common_headers(
    gateway: str, path: str, content_type: str, patience: float, bundled: bool
) -> dict[str, str]:
    headers = {GATEWAY: gateway, PATH: path, PATIENCE: format(patience, ".3f")}
    if content_type:
        headers[CONTENT_TYPE] = content_type
    if bundled:
        headers[BUNDLED] = "1"
    return headers


def request_headers(request: Request) -> dict[str, str]:
    """Return the headers of a request message; the model is in the subject."""
    common = _common_headers(request.gateway, request.path, "", request.patience, request.bundled)
    return {CONTENT_TYPE: request.content_type, **common, **_own_headers(request)}


def _own_headers(request: Request) -> dict[str, str]:
    headers = {REQUEST: request.id}
    if request.content_type != JSON:
        headers[CONTENT_TYPE] = request.content_type  # a form's has a boundary of its own
    if request.adapter:
        # Names may be any script; NATS headers are safest as ASCII.
        headers[ADAPTER] = request.adapter.encode().hex()
    if request.attempt != 1:
        headers[ATTEMPT] = str(request.attempt)
    if request.avoid:
        headers[AVOID] = request.avoid
    if request.gone:
        headers[GONE] = "1"
    if request.user:
        headers[USER] = request.user
    if request.caller_ids:
        headers[CALLER_IDS] = " ".join(request.caller_ids)
    if request.priority:
        headers[PRIORITY] = str(request.priority)
    if request.timeout is not None:
        headers[TIMEOUT] = format(request.timeout, ".3f")
    if request.prefix:
        headers[PREFIX] = ",".join(request.prefix)
    if request.keep:
        headers[KEEP] = "1"
    if request.continues:
        headers[CONTINUES] = request.continues
    if request.tokens:
        headers[TOKENS] = request.tokens
    if request.version:
        headers[VERSION] = request.version
    if request.query:
        headers[QUERY] = request.query
    if request.fields:
        headers[FIELDS] = carried_fields.written(request.fields)
    if request.size:
        headers[SIZE] = str(request.size)
    if request.pushed:
        headers[PUSHED] = "1"
    if request.slack:
        headers[SLACK] = "1"
    return headers


def read_request(model: str, headers: Mapping[str, str] | None, body: bytes) -> Request | None:
    """Read a request message; None if it is not from a gateway."""
    if not headers:
        return None
    if not (is_token(headers.get(REQUEST, "")) and is_token(headers.get(GATEWAY, ""))):
        return None  # they become part of a subject
    path = headers.get(PATH, "")
    if not path.startswith("/"):
        return None
    prefix = headers.get(PREFIX)
    try:
        request = Request(
            headers[REQUEST],
            headers[GATEWAY],
            model,
            path,
            body,
            adapter=bytes.fromhex(headers.get(ADAPTER, "")).decode(),
            content_type=headers.get(CONTENT_TYPE, JSON),
            user=headers.get(USER, ""),
            patience=_seconds(headers.get(PATIENCE, "30")),
            timeout=_seconds(headers[TIMEOUT]) if TIMEOUT in headers else None,
            prefix=tuple(prefix.split(",")) if prefix else (),
            tokens=headers.get(TOKENS, ""),
            version=headers.get(VERSION, ""),
            fields=carried_fields.read(headers.get(FIELDS, "")),
            bundled=BUNDLED in headers,
        )
        return request if _RARE.isdisjoint(headers) else _with_rare(request, headers)
    except UNREADABLE:
        return None


_RARE = frozenset(
    {ATTEMPT, AVOID, PRIORITY, KEEP, CONTINUES, GONE, QUERY, SIZE, PUSHED, SLACK, CALLER_IDS}
)
"""Headers that few requests have; a first attempt rarely has any of them."""


def _with_rare(request: Request, headers: Mapping[str, str]) -> Request:
    return replace(
        request,
        attempt=int(headers.get(ATTEMPT, "1")),
        avoid=headers.get(AVOID, ""),
        priority=int(headers.get(PRIORITY, "0")),
        keep=KEEP in headers,
        continues=headers.get(CONTINUES, ""),
        gone=GONE in headers,
        query=headers.get(QUERY, ""),
        size=max(0, int(headers.get(SIZE, "0"))),
        pushed=PUSHED in headers,
        slack=SLACK in headers,
        caller_ids=tuple(headers.get(CALLER_IDS, "").split()),
    )


_PLAN, _ROUTED = (f"{name}: ".encode() for name in (PLAN, ROUTED))
_OWN_LINE, _PLAN_LINE, _ROUTED_LINE, _PREFIX_LINE, _SIZE_LINE = (
    f"\r\n{name}: ".encode() for name in (REQUEST, PLAN, ROUTED, PREFIX, SIZE)
)
_END = b"\r\n\r\n"


def receive_request(model: str, header: bytes, body: bytes) -> Request | None:
    """Read a request message by its header block; None if it is not from a gateway.

    What remains without the lines that each request has anew is shared by many, and read once. A
    router's choice must be the last line for that.
    """
    before, _, own = header.partition(_OWN_LINE)
    end = own.find(b"\r\n")
    after, _, routed = own[end:].partition(_ROUTED_LINE)
    prefix = size = b""
    if _PREFIX_LINE in after:
        after, prefix = _without(after, _PREFIX_LINE)
    if _SIZE_LINE in after:
        after, size = _without(after, _SIZE_LINE)
    last = header.endswith(_END) and routed.find(b"\r\n") in (-1, len(routed) - len(_END))
    if last and len(before) + len(after) <= COMMON_SIZE:
        shared = _shared(model, before, after)
        name = own[:end].decode("ascii", "replace")
        if shared is not None and is_token(name):
            if not (prefix or size):
                return replace(shared, id=name, body=body)
            digests = tuple(prefix.decode("ascii", "replace").split(",")) if prefix else ()
            told = number(size) if size else 0
            if told is not None:
                return replace(shared, id=name, body=body, prefix=digests, size=told)
    return read_request(model, parse_headers(header), body)


def _without(lines: bytes, line: bytes) -> tuple[bytes, bytes]:
    """Return lines without one of them, and its value."""
    before, _, after = lines.partition(line)
    value, end, rest = after.partition(b"\r\n")
    return before + end + rest, value


@functools.lru_cache(maxsize=1024)
def _shared(model: str, *lines: bytes) -> Request | None:
    """Read what many requests share; None if no gateway wrote it."""
    return read_request(model, {**parse_headers(b"".join(lines)), REQUEST: "any"}, b"")


def _seconds(text: str) -> float:
    """Return a duration in seconds. Raise ValueError for text that is not a duration."""
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{text} is not a duration in seconds")
    return seconds


_routed = msgspec.json.Decoder(Routed)
_encode = msgspec.json.Encoder().encode


def routed_block(block: bytes, plan: int, routed: Routed, version: str = "") -> bytes:
    """Return a request's header block with a router's choice and the version of the replica's plan.

    `version`: the digest of the adapter's version, if the request does not name one itself.
    """
    if version:
        block = b"%b%b: %b\r\n\r\n" % (block[:-2], VERSION.encode(), version.encode())
    return b"%b%b%d\r\n%b%b\r\n\r\n" % (block[:-2], _PLAN, plan, _ROUTED, _encode(routed))


def read_routed(headers: Mapping[str, str]) -> Routed | None:
    """Return a router's choice; None if there is none, or it is not valid."""
    try:
        return _routed.decode(headers.get(ROUTED, ""))
    except UNREADABLE:
        return None


def read_plan(header: bytes) -> int | None:
    """Return the version of the plan for which a request was sent; None if none is named."""
    return _plan(header.partition(_PLAN_LINE)[2].partition(b"\r\n")[0])


_plan = functools.lru_cache(maxsize=256)(number)
