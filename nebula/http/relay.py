"""One inference request as an ASGI response: out to NATS, and its answer back as it comes.

Bodies pass through unchanged. A client that goes away ends the generation at once.
"""

import asyncio
import contextlib
import logging
import uuid

from litestar.types import Receive, Scope, Send
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors import gateway as actor
from nebula.actors.gateway import Exchange, Gateway, NotServed
from nebula.events import inference
from nebula.events.inference import Piece, Request
from nebula.events.state import Named
from nebula.http.errors import ApiError, unavailable
from nebula.store.log import LogReplaced

log = logging.getLogger(__name__)

ACCEPT_PATIENCE = (2.0, 4.0, 9.0)
"""Seconds within which some replica must have said that it has the request, try by try: a router
that dies takes the requests that are on their way through it with it."""

_REASONS = {
    inference.NO_REPLICA: "no replica is ready",
    inference.ENGINE_FAILED: "the engine that worked on this request has failed",
    inference.ENGINE_STOPPED: "the engine that worked on this request was stopped",
    actor.NATS_LOST: "the connection to NATS was lost",
    actor.GAP: "a part of the answer was lost on its way",
    actor.TOO_SLOW: "the client reads too slowly",
}


class Patience(Struct, frozen=True):
    """How long to wait, in seconds: for a model that loads, and between two pieces of an answer."""

    load: float = 30.0
    idle: float = 600.0


class Relay:
    """The ASGI response of one request."""

    def __init__(
        self, gateway: Gateway, request: Request, named: Named, patience: Patience
    ) -> None:
        self._gateway = gateway
        self._request = request
        self._named = named
        self._patience = patience
        self._exchange: Exchange | None = None
        self._begun = False
        self._streaming = False

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        answering = asyncio.ensure_future(self._answer(send))
        leaving = asyncio.ensure_future(_departure(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            leaving.cancel()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await answering
            if self._exchange is not None:
                await self._gateway.cancel(self._exchange)

    async def _answer(self, send: Send) -> None:
        try:
            head = await self._head()
            await self._relay(head, send)
        except ApiError as error:
            await self._fail(error, send)
        except LogReplaced as error:
            await self._fail(unavailable(str(error)), send)

    async def _head(self) -> Piece:
        """Get the first piece of an answer, trying again while no replica takes the request."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience.load
        lost = 0
        while True:
            try:
                await self._gateway.ready(self._named, max(0.0, deadline - loop.time()))
                self._exchange = exchange = await self._gateway.ask(self._request)
            except NotServed as error:
                raise unavailable(str(error), error.retry_after) from error
            head = await self._first(exchange, ACCEPT_PATIENCE[lost])
            if head is None:
                # Under another id: should the first be on its way still, the two can't be mixed up.
                await self._gateway.cancel(exchange)
                self._request = replace(self._request, id=uuid.uuid4().hex)
                lost += 1
                if lost == len(ACCEPT_PATIENCE):
                    raise unavailable("no router or replica took the request in time")
                continue
            if head.failure != inference.NO_REPLICA or loop.time() >= deadline:
                return head
            # The router's fold is behind ours, or ours behind its: soon they agree.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._gateway.projection.changed()

    async def _first(self, exchange: Exchange, patience: float) -> Piece | None:
        """Get the first piece; None where no replica says in `patience` s that it has it."""
        try:
            return await exchange.piece(patience)
        except TimeoutError:
            if not exchange.replica:
                return None
        try:
            return await exchange.piece(self._patience.idle)
        except TimeoutError:
            raise _timed_out() from None

    async def _relay(self, piece: Piece, send: Send) -> None:
        exchange = self._exchange
        assert exchange is not None
        if piece.failure:
            raise _failed(piece.failure)
        self._begun = True
        self._streaming = piece.content_type.startswith("text/event-stream")
        headers = [
            (b"content-type", piece.content_type.encode("latin-1")),
            (b"x-request-id", self._request.id.encode()),
        ]
        if piece.end:
            headers.append((b"content-length", str(len(piece.body)).encode()))
        if self._streaming:
            headers.append((b"cache-control", b"no-cache"))
        await send({"type": "http.response.start", "status": piece.status, "headers": headers})
        while True:
            more = not piece.end
            await send({"type": "http.response.body", "body": piece.body, "more_body": more})
            if not more:
                return
            try:
                piece = await exchange.piece(self._patience.idle)
            except TimeoutError:
                raise _timed_out() from None
            if piece.failure:
                raise _failed(piece.failure)

    async def _fail(self, error: ApiError, send: Send) -> None:
        """Tell the client: as a response, or, once a stream has begun, as its last event."""
        if not self._begun:
            headers = [(b"content-type", b"application/json")]
            headers += [(key.encode(), value.encode()) for key, value in error.headers.items()]
            headers.append((b"content-length", str(len(error.payload)).encode()))
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": error.payload, "more_body": False})
            return
        if self._streaming:
            body = b"data: " + error.payload + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        # Half a JSON body can't be mended: break the connection so that nobody takes it for whole.
        raise ConnectionAbortedError(str(error))


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _failed(failure: str) -> ApiError:
    return unavailable(_REASONS.get(failure, failure))


def _timed_out() -> ApiError:
    return ApiError(504, "the engine did not go on in time", kind="timeout", code="timeout")
