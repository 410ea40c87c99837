"""Idempotency: the first request under an id runs, and all others with that id get its answer.

The first one claims the id, in a stream that refuses a second claim. Claims are not kept in the
data plane's stream: under load that stream forgets a message within seconds, and a request whose
claim is forgotten would run twice.
"""

import asyncio
import hashlib
import os
import uuid
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from nebula.actors.gateway import stored_answer
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.not_served import NotServed
from nebula.actors.gateway.probing import Away
from nebula.actors.gateway.timeouts import RECOVERY
from nebula.events import envelope, subjects
from nebula.events.failures import Failure
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.store import batch, inference_log, streams
from nebula.store.connection import Unavailable

_PATIENCE = RECOVERY
"""Seconds within which the stream must answer, over all tries: its servers elect a new leader
within four to nine seconds after losing the previous leader."""

_TRY = 2.0
"""Seconds for one try; also the only try of a request that probes whether the stream is back."""

FULL_RETRY = 30
"""Seconds after which there may be room for claims again: each is kept for five minutes."""

RETRY_AFTER = 2
"""Seconds after which it may help to ask again."""

_AWAY = (
    "the stream of claims does not answer, so that no answer can be kept to be resumed: "
    "ask without X-Resumable and Idempotency-Key, or later"
)

_FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}


_SLOT = 16
"""Letters at the end of an id that name its claim's subject: a key's hash, or random letters."""

_NO_ROOM = 10077
"""JetStream's code for a stream that is full (server/errors.json of nats-server)."""


class KeyReused(Exception):
    """The key was used for a different request before."""


class TooManyClaims(NotServed):
    """An owner has as many resumable answers as it may have."""


class ClaimsFull(Exception):
    """The stream of claims is full."""


class Claim(Struct, frozen=True):
    """A claimed request, which names its gateway, and the server's time of the claim.

    `stream`: whether the client asked for a stream; False also if an older gateway claimed it.
    """

    request: Request
    time: datetime
    stream: bool = False

    @property
    def owner(self) -> str:
        """The hash of the API key that the request came with, "" for none."""
        return self.request.user.partition("/")[0]


def keyed_id(user: str, number: int, key: bytes) -> str:
    """Return an id for a request with an Idempotency-Key; `number`: how often it was tried before.

    Half of it follows from the key, so that a repeated request meets the claim of the first; the
    other half can't be guessed, so that knowing the key alone does not give access to the answer.
    """
    of = b"%b\n%d\n%b" % (user.encode(), number, key)
    return os.urandom(8).hex() + hashlib.blake2b(of, digest_size=_SLOT // 2).hexdigest()


async def claim(
    gateway: Gateway, request: Request, fingerprint: str, *, stream: bool = False
) -> Claim | None:
    """Claim a request's id; return the earlier claim for the same request, if there is one.

    `fingerprint` tells whether two requests with one id are the same. Raise KeyReused if the
    earlier claim is for another request, NotServed if the stream does not answer or is full,
    TooManyClaims if the request's owner has too many.
    """
    claimant = uuid.uuid4().hex
    headers = {
        **envelope.request_headers(replace(request, prefix=())),
        **_FIRST,
        envelope.CLAIMANT: claimant,
        envelope.MODEL: request.model,
        envelope.FINGERPRINT: fingerprint,
        **({envelope.STREAM: "1"} if stream else {}),
    }
    subject = _subject(request.id)
    owner = request.user.partition("/")[0]
    size = len(subject) + len(envelope.block(headers))
    full = gateway.claim_shares.wait(owner, size, asyncio.get_running_loop().time())
    if full:
        raise TooManyClaims("so many answers are kept for this API key already", full)
    if not gateway.connection.connected:
        raise NotServed("NATS can't be reached", 1)
    try:
        with gateway.claims_stream.asking() as alone:
            seconds = _TRY if alone else _PATIENCE
            if await _first(gateway, subject, headers, seconds):
                gateway.claim_shares.take(owner, size, asyncio.get_running_loop().time())
                return None
            found = await _last(gateway, subject)
    except Away as error:
        raise NotServed(_AWAY, RETRY_AFTER) from error
    except ClaimsFull as error:
        raise NotServed(str(error), FULL_RETRY) from error
    except (NatsError, TimeoutError) as error:
        # It may be stored all the same: a repeated request must not wait for an answer to it.
        gateway.sending.drop(request, ALL_ATTEMPTS, Failure.NOT_TAKEN.encode())
        raise NotServed(f"{_AWAY} ({error!r})", RETRY_AFTER) from error
    said = found.headers or {}
    other = _read(found)
    if other is None or said.get(envelope.FINGERPRINT) != fingerprint:
        raise KeyReused
    # Its own, where the acknowledgement of an earlier try was lost.
    return None if said.get(envelope.CLAIMANT) == claimant else other


async def _first(gateway: Gateway, subject: str, headers: dict[str, str], seconds: float) -> bool:
    """Return whether this claim is the first. Raise nats-py's errors after `seconds`."""
    jetstream = gateway.connection.client.jetstream(timeout=_TRY)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        left = deadline - loop.time()
        try:
            await jetstream.publish(subject, b"", timeout=min(_TRY, left), headers=headers)
            return True
        except (NoStreamResponseError, TimeoutError):
            # NATS has just come back, and the stream in its memory is not there again yet.
            if loop.time() + 0.1 >= deadline:
                raise
            await asyncio.sleep(0.1)
        except APIError as error:
            if error.err_code == _NO_ROOM:
                raise ClaimsFull("no more answers can be kept now") from error
            if error.err_code not in batch.CONFLICTS:
                raise
            return False


async def find_claim(gateway: Gateway, identity: str, owner: str) -> Claim | None:
    """Return the claim of an owner's resumable request, or None if it is unknown or forgotten.

    Raise Unavailable.
    """
    if not subjects.is_token(identity):
        return None
    try:
        found = _read(await _last(gateway, _subject(identity)))
    except NotFoundError:
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the stream of claims does not answer: {error!r}") from error
    if found is None or (found.request.id, found.owner) != (identity, owner):
        return None
    return found


async def ended_in_failure(gateway: Gateway, request: Request) -> bool:
    """Return whether the answer of a claimed request ended in a failure. Raise NotServed."""
    subject = subjects.responses(request.gateway, request.id)
    try:
        async for said in inference_log.read(gateway.connection, [subject]):
            if stored_answer.has_failed(said):
                return True
    except Unavailable as error:
        raise NotServed(str(error), 1) from error
    return False


def _subject(identity: str) -> str:
    return subjects.claim(identity[-_SLOT:])


async def _last(gateway: Gateway, subject: str) -> RawStreamMsg:
    jetstream = gateway.connection.client.jetstream(timeout=_TRY)
    return await jetstream.get_last_msg(streams.CLAIMS, subject, direct=True)


def _read(found: RawStreamMsg) -> Claim | None:
    headers = found.headers or {}
    request = envelope.read_request(headers.get(envelope.MODEL, ""), headers, found.data or b"")
    if request is None or found.time is None:
        return None
    return Claim(request, found.time, envelope.STREAM in headers)
