"""Resumes an answer: any gateway delivers it again, to a client that comes back for it.

The answer is read from the data plane's stream and folded as its own gateway folds it, so its bytes
are the same. Its claim holds the request, and names the gateway that sent it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec.structs import replace

from nebula.actors.gateway import idempotency, orphans, stored_answer
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.delivery import ClientGone, Quiet
from nebula.actors.gateway.idempotency import Claim
from nebula.actors.gateway.not_served import NotServed
from nebula.actors.gateway.stored_answer import AnswerEnded, AttemptsEnded
from nebula.events import subjects
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.store import inference_log, request_log
from nebula.store.connection import Unavailable
from nebula.store.inference_log import StoredMessage

MAX_PAST = 1024 * 1024
"""Bytes of an answer that are kept while it is read as a whole; a longer answer is read twice."""

CHECK = 2.0
"""Seconds without a message after which the answer's gateway is asked about it."""


class Unknown(Exception):
    """There is no such answer, or it is no longer kept."""


class Beyond(Exception):
    """The client wants to resume after an event that the finished stream never had.

    Its argument is the number of the stream's last event.
    """


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
        self._first_attempt = 1
        self._owner = ""
        self._last_piece_ns = 0
        self._quiet = 0.0
        self._nudged = False
        self._last: Piece | None = None
        self._stream = self._recorded = False
        self._answer: Answer | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return self._identity

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self._answer is not None and self._answer.streaming

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for, as far as the claim tells it."""
        return self._stream

    async def open(self) -> None:
        """Find the request and read what is stored of its answer.

        Raise Unknown, Beyond, Unavailable.
        """
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
                # Pieces of attempts before the last restart had not reached the answer's gateway
                # when it gave those attempts up.
                self._first_attempt = max(self._first_attempt, stored_answer.restarted_by(said))
                size += len(said.header) + len(said.body)
                if size <= MAX_PAST:
                    past.append(said)
            if not stored_answer.is_beginning(first) and await self._forgotten(claim):
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

    async def next(self) -> Piece:
        """Return the next piece for the client, or the last one of `let_go`.

        Raise ClientGone after `leave`, Quiet after `nudge`, NotServed.
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
                failure = await orphans.failure_of(
                    self._gateway, answer, self._owner, self._last_piece_ns, self._quiet
                )
                if failure is not None:
                    orphans.report(self._gateway, answer.request, self._owner, failure)
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

    def nudge(self) -> None:
        """Have `next` raise Quiet before long if no piece comes."""
        self._nudged = True

    async def close(self) -> None:
        """Read no further, and record what the answer used if it has ended.

        Its own gateway records the same, unless it died before: the first record counts.
        """
        if self._answer is not None and self._answer.complete and not self._recorded:
            self._recorded = True
            self._gateway.usage.ended(self._answer, self._identity)
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        if self._following is not None:
            await self._following.aclose()

    def leave(self) -> None:
        """End `next`: the client is gone."""
        if self._coming is not None:
            self._coming.cancel()

    def let_go(self, last: Piece) -> None:
        """Deliver a last piece to the client; the answer goes on without it."""
        self._last = last
        if self._coming is not None:
            self._coming.cancel()

    def _follow(self) -> AsyncGenerator[StoredMessage | None, None]:
        wanted = [subjects.responses(self._owner, self._identity)]
        self._following = inference_log.follow(self._gateway.connection, wanted)
        return self._following

    async def _forgotten(self, claim: Claim) -> bool:
        """Return whether the stream may once have held more of the answer. Raise Unavailable."""
        kept_since = await request_log.kept_since(self._gateway.connection)
        return kept_since is not None and kept_since > claim.time

    def _beyond(self, answer: Answer) -> bool:
        return answer.streaming and answer.events < self._after

    async def _news(self) -> StoredMessage | None:
        """Return the next message; None after a while without any."""
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

    def _taken(self, said: StoredMessage) -> Piece | None:
        """Fold a message, unless it is of an attempt that was given up."""
        assert self._answer is not None
        old = self._first_attempt > 1 and stored_answer.attempt_of(said) < self._first_attempt
        return None if old else self._take(self._answer, said)

    def _take(self, answer: Answer, said: StoredMessage) -> Piece | None:
        match stored_answer.read(said):
            case AnswerEnded(piece=piece):
                return answer.end(piece)
            case AttemptsEnded(attempt=attempt):
                answer.expect(attempt)
                return None
            case None:
                return None
            case piece:
                self._last_piece_ns = said.time
                return _folded(answer, piece)


def _folded(answer: Answer, piece: Piece) -> Piece | None:
    given = answer.take(piece)
    broken = answer.broken
    if broken is not None and broken.piece is not None and answer.attempt > 1:
        return broken.piece
    if broken is not None and broken.reason == Failure.GAP:
        return answer.end(Piece(0, failure=Failure.GAP))
    return given


async def _until_now(
    following: AsyncGenerator[StoredMessage | None, None],
) -> AsyncIterator[StoredMessage]:
    """Yield the messages that are stored already. Raise Unavailable."""
    while (said := await anext(following)) is not None:
        yield said
