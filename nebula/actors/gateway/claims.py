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
from nebula.actors.gateway.failures import NOT_TAKEN, NotServed
from nebula.actors.gateway.probing import Away
from nebula.events import envelope, subjects
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.store import batch, streams
from nebula.store.connection import Unavailable

_PATIENCE = 4.0
"""Seconds in which the stream has to answer, however often it is asked."""

_TRY = 2.0
"""Seconds for one try, and for the only one of a request that finds out whether it is back."""

RETRY_AFTER = 2
"""Seconds after which it may help to ask again."""

_AWAY = (
    "the stream of claims does not answer, so that no answer can be kept to be resumed: "
    "ask without X-Resumable and Idempotency-Key, or later"
)

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
    if not gateway.connection.connected:
        raise NotServed("NATS can't be reached", 1)
    try:
        with gateway.claims.asking() as alone:
            seconds = _TRY if alone else _PATIENCE
            if await _first(gateway, subject, request.body, headers, seconds):
                return None
            found = await _last(gateway, request.id)
    except Away as error:
        raise NotServed(_AWAY, RETRY_AFTER) from error
    except (NatsError, TimeoutError) as error:
        # It may be stored all the same: whoever asks again must not wait for an answer to it.
        gateway.sending.drop(request, ALL_ATTEMPTS, NOT_TAKEN.encode())
        raise NotServed(f"{_AWAY} ({error!r})", RETRY_AFTER) from error
    said = found.headers or {}
    other = _read(found)
    if other is None or said.get(envelope.FINGERPRINT) != fingerprint:
        raise Reused
    # Its own, where the acknowledgement of an earlier try was lost.
    return None if said.get(envelope.CLAIMANT) == claimant else other


async def _first(
    gateway: Gateway, subject: str, body: bytes, headers: dict[str, str], seconds: float
) -> bool:
    """Return whether this claim is the first. Raises what nats-py does after so many `seconds`."""
    jetstream = gateway.connection.client.jetstream(timeout=_TRY)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        left = deadline - loop.time()
        try:
            await jetstream.publish(subject, body, timeout=min(_TRY, left), headers=headers)
            return True
        except (NoStreamResponseError, TimeoutError):
            # NATS has just come back, and the stream in its memory is not there again yet.
            if loop.time() + 0.1 >= deadline:
                raise
            await asyncio.sleep(0.1)
        except APIError as error:
            if error.err_code not in batch.CONFLICTS:
                raise
            return False


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
    jetstream = gateway.connection.client.jetstream(timeout=_TRY)
    return await jetstream.get_last_msg(streams.CLAIMS, subjects.claim(identity), direct=True)


def _read(found: RawStreamMsg) -> Claim | None:
    headers = found.headers or {}
    request = envelope.read_request(headers.get(envelope.MODEL, ""), headers, found.data or b"")
    return None if request is None or found.time is None else Claim(request, found.time)
