"""What becomes of a request that is broken: it goes on elsewhere, or ends with why it can not."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from nebula.actors.gateway import failures, patience
from nebula.actors.gateway.answer import Broken
from nebula.actors.gateway.continuing import CantContinue, Continuation, Detokenize
from nebula.actors.gateway.detokenizing import question, text_of
from nebula.actors.gateway.exchange import Exchange
from nebula.actors.gateway.fatal import MAX_FATAL, ended_since
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.gateway.sending import Sending
from nebula.actors.projection import Projection
from nebula.actors.router import routing
from nebula.events import inference
from nebula.events.inference import Piece, Request
from nebula.events.state import Named

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Attempts after which a request is given up whose engines fail, though they began to answer it."""


class Host(Protocol):
    """The gateway, as far as a recovery needs it."""

    projection: Projection

    def ask(self, request: Request, named: Named) -> Exchange:
        """Send a request on its way. Raises NotServed."""

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run something beside all else."""


class Recovery:
    """See the module. `forget` lets go of an exchange that is over."""

    def __init__(
        self,
        host: Host,
        heartbeats: Heartbeats,
        sending: Sending,
        forget: Callable[[Exchange], None],
    ) -> None:
        self._host = host
        self._heartbeats = heartbeats
        self._sending = sending
        self._forget = forget

    def recover(self, exchange: Exchange) -> None:
        """Go on elsewhere with a request whose attempt is broken, or say why that can't be."""
        answer, broken = exchange.answer, exchange.answer.broken
        if broken is None or exchange.done or exchange.detokenizing:
            return
        request = exchange.request
        own = broken.piece is not None
        failed = broken.reason == inference.ENGINE_FAILED and not broken.silent
        exchange.count(fatal=failed and not own and not answer.pieces)
        if broken.reason == inference.ENGINE_TIMED_OUT:
            self.end(exchange, failures.OVERDUE)
        # What an engine itself answered with is no sign of its death: once more is enough, and
        # only of another one.
        elif exchange.resent >= MAX_ATTEMPTS - 1 or (
            own and (answer.attempt > 1 or not self._elsewhere(exchange))
        ):
            self._give_up(exchange, broken)
        elif exchange.fatal >= MAX_FATAL:
            self.end(exchange, failures.FATAL, b"%d" % exchange.fatal)
        elif not answer.begun:
            original = answer.request
            self._again(exchange, replace(request, path=original.path, body=original.body))
        else:
            way = answer.way_on(self._context(exchange))
            match way:
                case Continuation(path=path, body=body, form=form):
                    self._again(exchange, replace(request, path=path, body=body, continues=form))
                case Detokenize():
                    exchange.detokenizing = True
                    self._host.spawn(
                        self._detokenize(exchange, way), f"detokenize for {request.id}"
                    )
                case CantContinue(reason=reason):
                    cause = f"{broken.reason}: {reason}".encode()
                    self.end(exchange, failures.CANT_CONTINUE, cause)
                case _:
                    self.end(exchange, "", way.body)

    async def _detokenize(self, exchange: Exchange, way: Detokenize) -> None:
        """Ask any engine of the model what text the last token ids are, then go on."""
        seconds = patience.within(patience.DETOKENIZE, self.left(exchange))
        request = question(exchange, way, seconds)
        try:
            said = await text_of(self._host.ask, request, exchange.named)
        finally:
            exchange.detokenizing = False
        exchange.answer.settle(said)
        self.recover(exchange)

    def _context(self, exchange: Exchange) -> int:
        """Give the context of a replica that may go on; 0 where none has told it."""
        model = self._host.projection.state.models.get(exchange.request.model)
        return self._heartbeats.context(model.replicas if model is not None else ())

    def _elsewhere(self, exchange: Exchange) -> bool:
        """Return whether another replica than the one that has failed a request can serve it."""
        state = self._host.projection.state
        model = state.models.get(exchange.request.model)
        if model is None:
            return False
        able = routing.able(state, model, exchange.request.adapter)
        return any(replica.id != exchange.answer.replica for replica in able)

    def _give_up(self, exchange: Exchange, broken: Broken) -> None:
        if broken.piece is None or exchange.answer.begun:
            self.end(exchange, broken.reason, self.seen(exchange))
            return
        self._forget(exchange)
        exchange.answer.complete = True
        exchange.give(broken.piece)

    def _again(self, exchange: Exchange, request: Request) -> None:
        """Send a request once more, as its next attempt."""
        answer = exchange.answer
        now = asyncio.get_running_loop().time()
        broken = answer.broken
        if broken is not None:
            exchange.orphaned_at, exchange.lost = now, 0
            exchange.resent += 1
        request = replace(
            request,
            attempt=answer.attempt + 1,
            avoid=answer.replica,
            gone=broken is not None and (broken.gone or broken.reason == inference.ENGINE_STOPPED),
            patience=max(0.0, answer.request.patience - (now - exchange.orphaned_at)),
            timeout=None if exchange.deadline is None else max(0.0, exchange.deadline - now),
        )
        log.warning("request %s: attempt %d", request.id, request.attempt)
        answer.turn_to(request.attempt, request.continues)
        if exchange.untaken:
            self._sending.settle(exchange)
        exchange.request = request
        exchange.sent_at = exchange.heard_at = now
        exchange.state_time = self._host.projection.state.time
        exchange.asked_at = 0.0
        exchange.pid = None
        exchange.drop_early()
        exchange.missing = False
        self._sending.drop(request, request.attempt)
        try:
            self._sending.send(exchange)
        except MaxPayloadError:
            cause = f"{inference.ENGINE_FAILED}: its token ids are more than NATS carries at once"
            self.end(exchange, failures.CANT_CONTINUE, cause.encode())
        except NatsError as error:
            self.end(exchange, failures.NATS_LOST, str(error).encode())

    def end(self, exchange: Exchange, failure: str, body: bytes = b"") -> None:
        """End an answer here, with a failure or, without one, with its last bytes."""
        if exchange.done:
            return
        self._forget(exchange)
        exchange.give(exchange.answer.end(Piece(0, body, failure=failure)))
        self._sending.over(exchange.request, failure or failures.FINISHED, body)

    def seen(self, exchange: Exchange) -> bytes:
        """Return in words what was seen of those who had a request that fails."""
        now = asyncio.get_running_loop().time()
        return patience.seen(exchange, now, self._heartbeats, self._host.projection.state).encode()

    def left(self, exchange: Exchange) -> float:
        """Return the seconds that are left to get a request going again."""
        return patience.left(exchange, asyncio.get_running_loop().time())

    def try_again(self, exchange: Exchange) -> None:
        """Send a request again that got lost on its way to a replica, through another router."""
        self._sending.doubt(exchange)
        exchange.lost += not exchange.answer.queued
        exchange.count(
            fatal=not exchange.answer.queued
            and ended_since(
                self._host.projection.state, exchange.request.model, exchange.state_time
            )
        )
        if exchange.fatal >= MAX_FATAL:
            self.end(exchange, failures.FATAL, b"%d" % exchange.fatal)
        else:
            self._again(exchange, exchange.request)
