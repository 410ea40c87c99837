"""Answers that outlive their gateway: claimed before they begin, and given again by any gateway.

A request that is to be resumable is claimed on a subject of its own. Who claims one that has been
claimed already starts nothing, and gets the answer that is under way: out of the data plane's
stream, folded as its own gateway folds it, so that it is the same to the byte.
"""

import asyncio
import logging
import sys
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from nebula.actors.gateway.actor import ALL_ATTEMPTS, FINISHED, NOT_TAKEN, Gateway, NotServed
from nebula.actors.gateway.answer import GAP, Answer
from nebula.actors.gateway.continuing import asked
from nebula.actors.gateway.exchange import ClientGone
from nebula.events import envelope, inference, subjects
from nebula.events.inference import Piece, Request, StillWanted, UnderWay
from nebula.events.record import parse_headers
from nebula.store import inference_log, streams
from nebula.store.connection import Unavailable
from nebula.store.inference_log import Said

log = logging.getLogger(__name__)

CHECK = 2.0
"""Seconds without news after which it is asked whether anybody still works on the answer."""

ORPHANED = 15.0
"""Seconds that an answer without a gateway may take to begin: then it got lost with it."""

_PATIENCE = 10.0
"""Seconds in which the stream has to answer: a busy NATS does so late."""

_TRIES = 20


class Unknown(Exception):
    """There is no such answer, or it is no longer kept."""


class Reused(Exception):
    """The same key was used for another request before."""


def prepared(request: Request) -> Request:
    """Give a request for a stream as the engine is to be asked, so that it can go on elsewhere."""
    wish = asked(request.path, request.body)
    tokens = "shown" if wish.shown else "tracked" if wish.tracked else ""
    return replace(request, body=wish.body, tokens=tokens)


async def claim(gateway: Gateway, request: Request, fingerprint: str) -> str | None:
    """Claim a request's id; give the gateway that has claimed it for the same request before.

    Raises Reused where it was another one, NotServed where the stream does not answer.
    """
    client = gateway.connection.client
    subject = subjects.claim(request.id)
    claimant = uuid.uuid4().hex
    headers = {
        **envelope.request_headers(request),
        envelope.CLAIMANT: claimant,
        envelope.MODEL: request.model,
        envelope.FINGERPRINT: fingerprint,
    }
    try:
        client.post(subject, envelope.block(headers), request.body)
        for tries in range(_TRIES):
            # Stored a moment after it is sent: the first of all that were is the one that counts.
            try:
                found = (await _first(gateway, subject)).headers or {}
            except NotFoundError:
                # A busy NATS stores it late, and asking it more often makes that later still.
                await asyncio.sleep(0.01 * 2 ** min(tries, 6))
            except NoRespondersError:
                # NATS has just come back, and the stream in its memory is not there again yet.
                await asyncio.sleep(0.1)
                client.post(subject, envelope.block(headers), request.body)
            else:
                if found.get(envelope.FINGERPRINT) != fingerprint:
                    raise Reused
                own = found.get(envelope.CLAIMANT) == claimant
                return None if own else found.get(envelope.GATEWAY, "")
    except (NatsError, TimeoutError) as error:
        raise NotServed(f"the data plane's stream does not answer: {error!r}", 1) from error
    raise NotServed("the data plane's stream takes no claims", 1)


async def failed(gateway: Gateway, owner: str, identity: str) -> bool:
    """Say whether the answer that a gateway began ended in a failure. Raises NotServed."""
    try:
        async for said in inference_log.read(
            gateway.connection, [subjects.responses(owner, identity)]
        ):
            piece = _piece(said)
            if piece is None and not said.header:
                if not said.body.isdigit() and _words(said.body)[0]:
                    return True
            elif piece is not None and piece.failure == inference.REFUSED:
                return True
    except Unavailable as error:
        raise NotServed(str(error), 1) from error
    return False


async def _first(gateway: Gateway, subject: str) -> RawStreamMsg:
    """Give the first message on a subject. Lets nats-py's errors through, NotFoundError too."""
    return await gateway.connection.client.jetstream(timeout=_PATIENCE).get_msg(
        streams.INFERENCE, seq=1, subject=subject, direct=True, next=True
    )


async def _until_now(following: AsyncGenerator[Said | None, None]) -> AsyncIterator[Said]:
    """Give what was said already. Raises Unavailable."""
    while (said := await anext(following)) is not None:
        yield said


def _attempt(said: Said) -> int:
    """Give the attempt that a piece is of; what is no piece counts with all of them."""
    if envelope.read_plain(said.header) is not None:
        return 1
    piece = _piece(said)
    return sys.maxsize if piece is None else piece.attempt


def _begins_anew(said: Said) -> int:
    """Give the attempt that a piece begins from the start; 1 for any other."""
    if envelope.ATTEMPT.encode() not in said.header:
        return 1
    piece = _piece(said)
    return 1 if piece is None or piece.chunk != 0 or piece.continues else piece.attempt


def _piece(said: Said) -> Piece | None:
    return envelope.read_piece(parse_headers(said.header), said.body) if said.header else None


def _words(note: bytes) -> tuple[str, bytes]:
    """Read a gateway's note that an answer is over: why it failed, "" if not; its last bytes."""
    word, _, rest = note.partition(b": ")
    return ("" if word == FINISHED.encode() else word.decode(errors="replace") or NOT_TAKEN), rest


class Resumption:
    """An answer given again, from its first event or from the one after `after`."""

    def __init__(self, gateway: Gateway, identity: str, after: int = 0) -> None:
        self._gateway = gateway
        self._identity = identity
        self._after = after
        self._following: AsyncGenerator[Said | None, None] | None = None
        self._coming: asyncio.Future[Said | None] | None = None
        self._past: deque[Said] = deque()
        self._owner = ""
        self._said_at = 0
        self._answer: Answer | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return self._identity

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self._answer is not None and self._answer.streaming

    async def open(self) -> None:
        """Find what was asked. Raises Unknown, Unavailable."""
        identity = self._identity
        if not subjects.is_token(identity):
            raise Unknown
        try:
            claimed = await _first(self._gateway, subjects.claim(identity))
        except NotFoundError:
            raise Unknown from None
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the data plane's stream does not answer: {error!r}") from error
        headers = claimed.headers or {}
        body = claimed.data or b""
        request = envelope.read_request(headers.get(envelope.MODEL, ""), headers, body)
        if request is None:
            raise Unknown
        self._owner = request.gateway
        self._answer = Answer(request, after=self._after)
        self._following = inference_log.follow(
            self._gateway.connection, [subjects.responses(self._owner, identity)]
        )
        try:
            past = [said async for said in _until_now(self._following)]
        except Unavailable:
            await self.close()
            raise
        # What the stream has of attempts before the last that began anew, its gateway had not heard
        # of when it gave them up.
        anew = max((_begins_anew(said) for said in past), default=1)
        self._past.extend(said for said in past if _attempt(said) >= anew)

    async def next(self) -> Piece:
        """Give the next piece for the client."""
        answer = self._answer
        assert answer is not None
        quiet = 0.0
        while True:
            said = await self._news()
            if said is None:
                quiet += CHECK
                failure = await self._hopeless(answer, quiet)
                if failure:
                    self._say_over(answer.request, failure)
                    return answer.end(Piece(0, failure=failure))
                continue
            quiet = 0.0
            given = self._take(answer, said)
            if given is not None:
                return given

    async def close(self) -> None:
        """Read no further."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        if self._following is not None:
            await self._following.aclose()

    def leave(self) -> None:
        """The client is gone."""
        if self._coming is not None:
            self._coming.cancel()

    async def _news(self) -> Said | None:
        """Give what comes next; None after a while without any."""
        assert self._following is not None
        if self._past:
            return self._past.popleft()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CHECK
        while True:
            if self._coming is None:
                self._coming = asyncio.ensure_future(anext(self._following))
            await asyncio.wait((self._coming,), timeout=max(0.0, deadline - loop.time()))
            if not self._coming.done():
                return None
            coming, self._coming = self._coming, None
            if coming.cancelled():
                raise ClientGone
            try:
                said = coming.result()
            except (Unavailable, StopAsyncIteration) as error:
                raise NotServed(str(error), 1) from error
            if said is not None:
                return said

    def _take(self, answer: Answer, said: Said) -> Piece | None:
        piece = _piece(said)
        if piece is not None:
            self._said_at = said.time
            given = answer.take(piece)
            broken = answer.broken
            if broken is not None and broken.piece is not None and answer.attempt > 1:
                return broken.piece
            if broken is not None and broken.reason == GAP:
                return answer.end(Piece(0, failure=GAP))
            return given
        if said.header:
            return None
        if said.body.isdigit():
            answer.expect(int(said.body))
            return None
        failure, rest = _words(said.body)
        return answer.end(Piece(0, rest, failure=failure))

    def _say_over(self, request: Request, failure: str) -> None:
        """Say in its gateway's place that it has failed: then its key can be used for a new try."""
        client = self._gateway.connection.client
        try:
            client.post(subjects.cancel(request.model, request.id), b"", failure.encode())
            client.post(subjects.responses(self._owner, request.id), b"", failure.encode())
        except NatsError as error:
            log.warning("could not say that %s has failed: %r", request.id, error)

    async def _hopeless(self, answer: Answer, quiet: float) -> str:
        """Say why no further piece will come, if none will: whoever cared for it is gone too."""
        if await self._cared_for(answer):
            return ""
        replica = self._gateway.projection.state.replicas.get(answer.replica)
        engine = replica.engine if replica is not None else None
        if answer.replica and (engine is None or engine.started > self._said_at):
            return inference.ENGINE_FAILED
        patience = ORPHANED + (answer.request.patience if answer.queued else 0.0)
        return NOT_TAKEN if not answer.replica and quiet > patience else ""

    async def _cared_for(self, answer: Answer) -> bool:
        """Ask the gateway that sent the request whether it still has it."""
        asking = StillWanted("", {self._identity: UnderWay(answer.attempt, 0)})
        try:
            reply = await self._gateway.connection.client.request(
                subjects.waiting(self._owner), msgspec.json.encode(asking), timeout=1
            )
        except NoRespondersError:
            return False
        except (NatsError, TimeoutError):
            return True  # it is there and has nothing to object
        unwanted = msgspec.json.decode(reply.data, type=inference.Unwanted).requests
        return unwanted.get(self._identity, 0) < ALL_ATTEMPTS  # it may be at a later one by now
