"""Answers that outlive their gateway: delivered again by any gateway, to clients that come back.

Such an answer comes out of the data plane's stream, folded as its own gateway folds it, so that it
is the same to the byte. What was asked for, and which gateway has it, its claim says.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.actors.gateway import idempotency
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.delivery import ClientGone, Quiet
from nebula.actors.gateway.idempotency import Claim
from nebula.actors.gateway.not_served import NotServed
from nebula.events import envelope, inference, subjects
from nebula.events.failures import FINISHED, Failure, read_note
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, StillWanted, UnderWay
from nebula.events.reading import decoded
from nebula.events.record import parse_headers
from nebula.openai.continuation import with_token_ids
from nebula.store import inference_log
from nebula.store.connection import Unavailable
from nebula.store.inference_log import StoredMessage

log = logging.getLogger(__name__)

MAX_PAST = 1024 * 1024
"""Bytes of an answer that are kept while it is looked at as a whole; a longer one is read twice."""

CHECK = 2.0
"""Seconds without news after which it is asked whether anybody still works on the answer."""

ORPHANED = 15.0
"""Seconds that an answer without a gateway may take to begin: then it got lost with it."""


class Unknown(Exception):
    """There is no such answer, or it is no longer kept."""


def prepared(request: Request) -> Request:
    """Return a request for a stream in the form that lets another engine continue it."""
    wish = with_token_ids(request.path, request.body)
    tokens = "shown" if wish.shown else "tracked" if wish.tracked else ""
    return replace(request, body=wish.body, tokens=tokens)


async def failed(gateway: Gateway, request: Request) -> bool:
    """Return whether the answer of a claimed request ended in a failure. Raises NotServed."""
    subject = subjects.responses(request.gateway, request.id)
    try:
        async for said in inference_log.read(gateway.connection, [subject]):
            over, piece = _over(said), _piece(said)
            if over is not None and over.failure:
                return True
            if piece is not None and piece.failure == Failure.REFUSED:
                return True
    except Unavailable as error:
        raise NotServed(str(error), 1) from error
    return False


async def _until_now(
    following: AsyncGenerator[StoredMessage | None, None],
) -> AsyncIterator[StoredMessage]:
    """Yield what was said already. Raises Unavailable."""
    while (said := await anext(following)) is not None:
        yield said


def _attempt(said: StoredMessage) -> int:
    """Return the attempt number of a piece; notes belong to every attempt."""
    if envelope.read_plain(said.header) is not None:
        return 1
    piece = _piece(said)
    return sys.maxsize if piece is None else piece.attempt


def _begins_anew(said: StoredMessage) -> int:
    """Return the attempt that a piece begins from the start; 1 for any other."""
    if envelope.ATTEMPT.encode() not in said.header:
        return 1
    piece = _piece(said)
    return 1 if piece is None or piece.chunk != 0 or piece.continues else piece.attempt


def _from_the_beginning(first: StoredMessage | None) -> bool:
    piece = _piece(first) if first is not None else None
    return piece is not None and piece.chunk <= 0


def _piece(said: StoredMessage) -> Piece | None:
    return envelope.read_piece(parse_headers(said.header), said.body) if said.header else None


def _over(said: StoredMessage) -> Piece | None:
    """Read a gateway's note that an answer is over, as the piece that ends it; None for others."""
    if said.header or said.body.isdigit():
        return None
    word, rest = read_note(said.body)
    return Piece(0, rest, failure="" if word == FINISHED else word or Failure.NOT_TAKEN)


class Beyond(Exception):
    """A stream that is over ends with the event of this number, before the one asked for."""


class Resumption:
    """An answer given again to its owner, from its first event or from the event after `after`."""

    def __init__(self, gateway: Gateway, identity: str, owner: str, after: int = 0) -> None:
        self._gateway = gateway
        self._asked_by = owner
        self._identity = identity
        self._after = after
        self._following: AsyncGenerator[StoredMessage | None, None] | None = None
        self._coming: asyncio.Future[StoredMessage | None] | None = None
        self._past: deque[Piece] = deque()
        self._anew = 1
        self._owner = ""
        self._said_at = 0
        self._quiet = 0.0
        self._nudged = False
        self._last: Piece | None = None
        self._stream = False
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
        """Find what was asked. Raises Unknown, Beyond, Unavailable."""
        claim = await idempotency.find_claim(self._gateway, self._identity, self._asked_by)
        if claim is None:
            raise Unknown
        self._owner = claim.request.gateway
        self._stream = claim.stream or bool(claim.request.tokens)
        self._answer = Answer(claim.request, after=self._after)
        following = self._follow()
        past: list[StoredMessage] = []
        first: StoredMessage | None = None
        size = 0
        try:
            async for said in _until_now(following):
                first = first or said
                # What the stream has of attempts before the last that began anew, its gateway had
                # not heard of when it gave them up.
                self._anew = max(self._anew, _begins_anew(said))
                size += len(said.header) + len(said.body)
                if size <= MAX_PAST:
                    past.append(said)
            if not _from_the_beginning(first) and await self._forgotten(claim):
                raise Unknown
        except (Unavailable, Unknown):
            await self.close()
            raise
        if size > MAX_PAST:
            await self.close()
            self._follow()
            return
        for said in past:
            given = self._taken(said)
            if given is not None:
                self._past.append(given)
            if given is not None and given.end:
                break
        # As long as a stream runs, the event asked for may only be late in being stored.
        if self._answer.complete and self._beyond(self._answer):
            await self.close()
            raise Beyond(self._answer.events)

    def _follow(self) -> AsyncGenerator[StoredMessage | None, None]:
        wanted = [subjects.responses(self._owner, self._identity)]
        self._following = inference_log.follow(self._gateway.connection, wanted)
        return self._following

    def _taken(self, said: StoredMessage) -> Piece | None:
        """Fold what was said, but for attempts that count no more."""
        assert self._answer is not None
        old = self._anew > 1 and _attempt(said) < self._anew
        return None if old else self._take(self._answer, said)

    def _beyond(self, answer: Answer) -> bool:
        return answer.streaming and answer.events < self._after

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for, as far as the claim tells it."""
        return self._stream

    def nudge(self) -> None:
        """Let `next` raise Quiet before long, where it waits for a piece."""
        self._nudged = True

    async def next(self) -> Piece:
        """Return the next piece for the client, or the last one of `let_go`.

        Raises ClientGone after `leave`, Quiet after `nudge`, NotServed.
        """
        answer = self._answer
        assert answer is not None
        if self._past:
            return self._past.popleft()
        while self._last is None:
            said = await self._news()
            if said is None:
                if self._last is not None:
                    break
                self._quiet += CHECK
                failure = await self._hopeless(answer, self._quiet)
                if failure:
                    self._say_over(answer.request, failure)
                    return answer.end(Piece(0, failure=failure))
                if self._nudged:
                    self._nudged = False
                    raise Quiet
                continue
            self._quiet = 0.0
            self._nudged = False
            given = self._taken(said)
            if given is not None and given.end and not given.failure and self._beyond(answer):
                return replace(given, failure=Failure.BEYOND)
            if given is not None:
                return given
        return self._last

    async def _forgotten(self, claim: Claim) -> bool:
        """Return whether the stream may have held more of the answer once. Raises Unavailable."""
        kept_since = await inference_log.kept_since(self._gateway.connection)
        return kept_since is not None and kept_since > claim.time

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

    def let_go(self, last: Piece) -> None:
        """Deliver a last piece to the client; the answer goes on without it."""
        self._last = last
        if self._coming is not None:
            self._coming.cancel()

    async def _news(self) -> StoredMessage | None:
        """Return what comes next; None after a while without any."""
        assert self._following is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CHECK
        while True:
            if self._coming is None:
                self._coming = asyncio.ensure_future(anext(self._following))
            await asyncio.wait((self._coming,), timeout=max(0.0, deadline - loop.time()))
            if not self._coming.done():
                return None
            coming, self._coming = self._coming, None
            if coming.cancelled() and self._last is not None:
                return None
            if coming.cancelled():
                raise ClientGone
            try:
                said = coming.result()
            except (Unavailable, StopAsyncIteration) as error:
                raise NotServed(str(error), 1) from error
            if said is not None:
                return said

    def _take(self, answer: Answer, said: StoredMessage) -> Piece | None:
        over, piece = _over(said), _piece(said)
        if over is not None:
            return answer.end(over)
        if piece is None:
            if not said.header:
                answer.expect(int(said.body))
            return None
        self._said_at = said.time
        given = answer.take(piece)
        broken = answer.broken
        if broken is not None and broken.piece is not None and answer.attempt > 1:
            return broken.piece
        if broken is not None and broken.reason == Failure.GAP:
            return answer.end(Piece(0, failure=Failure.GAP))
        return given

    def _say_over(self, request: Request, failure: str) -> None:
        """Publish in its gateway's place that it has failed: then its key can be used again."""
        client = self._gateway.connection.client
        try:
            client.post(subjects.cancel(request.model, request.id), b"", failure.encode())
            client.post(subjects.responses(self._owner, request.id), b"", failure.encode())
        except NatsError as error:
            log.warning("could not say that %s has failed: %r", request.id, error)

    async def _hopeless(self, answer: Answer, quiet: float) -> str:
        """Return why no further piece will come, if none will: its gateway is gone too."""
        if await self._cared_for(answer):
            return ""
        replica = self._gateway.projection.state.replicas.get(answer.replica)
        engine = replica.engine if replica is not None else None
        if answer.replica and (engine is None or engine.started > self._said_at):
            return Failure.ENGINE_FAILED
        patience = ORPHANED + (answer.request.patience if answer.queued else 0.0)
        return Failure.NOT_TAKEN if not answer.replica and quiet > patience else ""

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
        told = decoded(reply.data, inference.Unwanted)
        unwanted = told.requests if told is not None else {}
        return unwanted.get(self._identity, 0) < ALL_ATTEMPTS  # it may be at a later one by now
