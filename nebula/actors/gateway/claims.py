"""Claims: whoever is the first to ask under an id runs the request, all others get its answer.

They have a stream of their own, apart from the data plane's: that one forgets within seconds what
much is said after, and a request whose claim is forgotten would run twice.
"""

import asyncio
import uuid
from datetime import datetime

from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.failures import NotServed
from nebula.events import envelope, subjects
from nebula.events.inference import Request
from nebula.store import batch, streams
from nebula.store.connection import Unavailable

_PATIENCE = 10.0
"""Seconds in which the stream has to answer: a busy NATS does so late."""

_TRY = 3.0

_FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}


class Reused(Exception):
    """The same id was used for another request before."""


class Claim(Struct, frozen=True):
    """A request that was claimed, by the gateway that it names, when the server says it was."""

    request: Request
    time: datetime


async def claim(gateway: Gateway, request: Request, fingerprint: str) -> Claim | None:
    """Claim a request's id; give who has claimed it for the same request before, if anybody has.

    Raises Reused where it was another one, NotServed where the stream does not answer.
    """
    claimant = uuid.uuid4().hex
    headers = {
        **envelope.request_headers(request),
        **_FIRST,
        envelope.CLAIMANT: claimant,
        envelope.MODEL: request.model,
        envelope.FINGERPRINT: fingerprint,
    }
    subject = subjects.claim(request.id)
    jetstream = gateway.connection.client.jetstream(timeout=_PATIENCE)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    try:
        while True:
            try:
                await jetstream.publish(subject, request.body, timeout=_TRY, headers=headers)
                return None
            except (NoStreamResponseError, TimeoutError):
                # NATS has just come back, and the stream in its memory is not there again yet.
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.1)
            except APIError as error:
                if error.err_code not in batch.CONFLICTS:
                    raise
                break
        found = await _last(gateway, request.id)
    except (NatsError, TimeoutError) as error:
        raise NotServed(f"the stream of claims does not answer: {error!r}", 1) from error
    said = found.headers or {}
    other = _read(found)
    if other is None or said.get(envelope.FINGERPRINT) != fingerprint:
        raise Reused
    # Its own, where the acknowledgement of an earlier try was lost.
    return None if said.get(envelope.CLAIMANT) == claimant else other


async def find(gateway: Gateway, identity: str) -> Claim | None:
    """Find what was asked under an id; None where nothing was, or not lately. Raises Unavailable.

    It knows only what was to be resumable.
    """
    try:
        return _read(await _last(gateway, identity)) if subjects.is_token(identity) else None
    except NotFoundError:
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the stream of claims does not answer: {error!r}") from error


async def _last(gateway: Gateway, identity: str) -> RawStreamMsg:
    jetstream = gateway.connection.client.jetstream(timeout=_PATIENCE)
    return await jetstream.get_last_msg(streams.CLAIMS, subjects.claim(identity), direct=True)


def _read(found: RawStreamMsg) -> Claim | None:
    headers = found.headers or {}
    request = envelope.read_request(headers.get(envelope.MODEL, ""), headers, found.data or b"")
    return None if request is None or found.time is None else Claim(request, found.time)
