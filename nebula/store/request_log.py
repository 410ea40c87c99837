"""Finds what the data plane's stream still has of single requests, also in bundles."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from nebula.events import bundles, envelope, piece_envelope, subjects
from nebula.events.failures import Failure
from nebula.events.reading import decoded
from nebula.store import streams
from nebula.store.connection import Connection, Unavailable
from nebula.store.inference_log import PATIENCE, StoredMessage, read

ASKED = (subjects.ALL_REQUESTS, subjects.replica_requests("*", "*"))
"""Where requests are: what gateways ask routers for, and what they and routers send to replicas."""

_MARGIN = timedelta(seconds=5)
"""By how much longer ago bundles are read than they are needed: a message takes time to be kept."""


class _Info(Struct, frozen=True):
    """What the server tells of a stream: the server's time."""

    ts: datetime | None = None


async def look_up(connection: Connection, request: str) -> list[StoredMessage]:
    """Return all messages of a request, in order; with bodies only where they say why it ended.

    Pieces that came in bundles are given as messages of their own. Return nothing for a request
    that is unknown or no longer kept. Raise Unavailable.
    """
    if not subjects.is_token(request):
        return []
    wanted = [*ASKED, subjects.responses("*", request), subjects.cancel("*", request)]
    found = [
        said
        async for said in read(connection, wanted, bodies=False)
        if said.subject.endswith(f".{request}") or said.headers.get(envelope.REQUEST) == request
    ]
    whole = [await _whole(connection, said) if _says_why(said) else said for said in found]
    whole += await _bundled(connection, request, whole)
    return sorted(whole, key=lambda said: said.seq)


async def called(connection: Connection, caller_id: str) -> list[str]:
    """Return Nebula's ids of the requests that had this id of their caller's, newest first.

    Raise Unavailable.
    """
    found: dict[str, None] = {}
    async for said in read(connection, ASKED, bodies=False):
        headers = said.headers
        if caller_id in headers.get(envelope.CALLER_IDS, "").split():
            found[headers.get(envelope.REQUEST, "")] = None
    return list(reversed(found))


async def kept_since(connection: Connection) -> datetime | None:
    """Return the server's time of the oldest kept message, or None. Raise Unavailable."""
    first = await _message(connection, seq=1, subject=subjects.INFERENCE, next=True)
    return first.time if first is not None else None


async def missed(
    connection: Connection, gateway: str, requests: Mapping[str, int], seconds: float
) -> Mapping[str, list[StoredMessage]]:
    """Return the pieces of requests in the bundles that a gateway was sent, in order.

    `requests`: for each how many pieces of its answer are known; `seconds`: how long ago the first
    of these bundles was sent at most. Raise Unavailable.
    """
    since = await _time(connection)
    if since is not None:
        since -= timedelta(seconds=seconds) + _MARGIN
    found: dict[str, list[StoredMessage]] = {}
    wanted = [subjects.bundles(gateway, "*", "*")]
    async for said in read(connection, wanted, since=since):
        for request, piece in _pieces(said, gateway, requests):
            found.setdefault(request, []).append(piece)
    return found


def _pieces(
    said: StoredMessage, gateway: str, requests: Mapping[str, int]
) -> Iterator[tuple[str, StoredMessage]]:
    """Yield the unknown pieces of requests in a bundle, as messages of their own."""
    at = 0
    for request, head, size in bundles.pieces(said.header):
        chunk = head if isinstance(head, int) else head.chunk
        if request in requests and not 0 <= chunk < requests[request]:
            subject, header = subjects.responses(gateway, request), piece_envelope.head_block(head)
            part = said.body[at : at + size]
            yield request, replace(said, subject=subject, header=header, body=part, size=size)
        at += size


async def _bundled(
    connection: Connection, request: str, found: list[StoredMessage]
) -> list[StoredMessage]:
    """Return a request's pieces in bundles, up to the end of its answer. Raise Unavailable."""
    pieces: list[StoredMessage] = []
    asked = next((each for each in found if envelope.BUNDLED in each.headers), None)
    if asked is None:
        return pieces
    gateway = asked.headers[envelope.GATEWAY]
    wanted = [subjects.bundles(gateway, "*", "*")]
    async for said in read(connection, wanted, bodies=False, after=asked.seq):
        pieces += [piece for _, piece in _pieces(said, gateway, {request: 0})]
        if pieces and _ends(pieces[-1]):
            break
    return pieces


def _ends(piece: StoredMessage) -> bool:
    headers = piece.headers
    return envelope.END in headers and envelope.FAILURE not in headers


async def _time(connection: Connection) -> datetime | None:
    """Return the server's time; None if it does not tell. Raise Unavailable."""
    subject = f"$JS.API.STREAM.INFO.{streams.INFERENCE}"
    try:
        told = await connection.client.request(subject, b"", timeout=PATIENCE)
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the data plane's stream does not tell its time: {error!r}") from error
    info = decoded(told.data, _Info)
    return None if info is None else info.ts


def _says_why(said: StoredMessage) -> bool:
    if said.subject.split(".")[2] == "cancel":
        return said.size > 0
    return said.headers.get(envelope.FAILURE) == Failure.REFUSED


async def _whole(connection: Connection, said: StoredMessage) -> StoredMessage:
    """Return a message with its body, if it is still kept. Raise Unavailable."""
    whole = await _message(connection, seq=said.seq)
    return said if whole is None else replace(said, body=whole.data or b"")


async def _message(connection: Connection, **which: Any) -> RawStreamMsg | None:
    """Return one message, selected as in nats-py's `get_msg`; None if it is not kept."""
    jetstream = connection.client.jetstream(timeout=PATIENCE)
    try:
        return await jetstream.get_msg(streams.INFERENCE, direct=True, **which)
    except NotFoundError:
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the data plane's stream returns no message: {error!r}") from error
