"""`/v1/realtime`: a WebSocket that is a session in one replica's engine, for as long as it lives.

The session is a request in flight, so that routers count it, and whatever ends a request ends it.
What its engine says comes as the pieces of an answer; what its client says waits in an uplink.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from litestar.types import Receive, Send

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import settle
from nebula.actors.gateway.budget import Hold
from nebula.actors.gateway.delivery import ClientGone, Delivery, new_id
from nebula.actors.gateway.not_served import NotServed
from nebula.actors.gateway.uplinks import SESSIONS, Uplink
from nebula.events import frames
from nebula.events.endpoints import REALTIME, serves
from nebula.events.failures import Failure
from nebula.events.frames import BadFrame, Frame, FrameReader
from nebula.events.inference import SWITCHED, Piece, Request
from nebula.events.log_fields import request_fields
from nebula.events.state import State
from nebula.http import own_fields, quotas, request_ids, turned_away
from nebula.http.errors import ApiError, unavailable
from nebula.http.forwarding import forwarded
from nebula.http.principals import Principal, required, still_required
from nebula.http.relay import error_of, fail
from nebula.http.routed import route_of
from nebula.http.starting import starting
from nebula.openai import realtime
from nebula.openai.realtime import (
    Accept,
    Accepted,
    ClientSaid,
    Close,
    Ended,
    EngineSaid,
    Event,
    Phase,
    Session,
    ToClient,
    ToEngine,
)
from nebula.openai.realtime import (
    ClientGone as ClientLeft,
)

log = logging.getLogger(__name__)

LARGEST_REFUSAL = 64 * 1024
"""Bytes of an engine's refusal that are passed on."""

LOOK = 1.0
"""Seconds between two looks at the API key of a session in which its client says nothing."""

_LISTED = 10
"""Models that an error lists at most."""

_CODES: Mapping[str, int] = {
    Failure.STOPPING: realtime.GOING_AWAY,
    Failure.NATS_LOST: realtime.TRY_LATER,
    Failure.TOO_SLOW: realtime.POLICY,
    Failure.CANCELLED: realtime.POLICY,
    Failure.OVERDUE: realtime.POLICY,
    Failure.ENGINE_TIMED_OUT: realtime.POLICY,
    Failure.ENGINE_STOPPED: realtime.RESTART,
}
"""Close codes by what ended a session; RESTART where its engine is lost, else INTERNAL."""


class Realtime:
    """The sessions of one gateway; `idle`: seconds without a message, `patience`: for a replica."""

    def __init__(self, gateway: Gateway, patience: float, idle: float, root: str = "") -> None:
        self._gateway = gateway
        self._patience = patience
        self._idle = idle
        self._root = root

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one WebSocket of ASGI."""
        await receive()
        try:
            await self._serve(scope, receive, send)
        except ApiError as error:
            turned_away.count(self._gateway, REALTIME.path, scope, error)
            await fail(error, send)
        except NotServed as error:
            refusal = unavailable(str(error), error.retry_after)
            turned_away.count(self._gateway, REALTIME.path, scope, refusal)
            await fail(refusal, send)

    async def _serve(self, scope: Any, receive: Receive, send: Send) -> None:
        """Open a session and hold it until its end. Raise ApiError, NotServed before it is open."""
        gateway = self._gateway
        if not gateway.started:
            raise starting(gateway)
        principal = required(scope, "infer")
        uplinks = gateway.large_bodies.uplinks
        if len(uplinks) >= SESSIONS:
            raise unavailable(f"{len(uplinks)} sessions are open already, as many as may be")
        gateway.admit()
        headers = own_fields.fields(scope)
        identity, key = new_id(), principal.owner
        asked = _model(scope["query_string"], gateway.projection.state, principal)
        route = route_of(gateway, REALTIME, asked, identity, self._root, principal.may_use)
        request = Request(
            identity,
            gateway.id,
            route.binding.model,
            REALTIME.path,
            b"",
            adapter=route.binding.adapter,
            user=key,
            patience=self._patience,
            timeout=own_fields.time_limit(headers),
            query=scope["query_string"].decode("latin-1"),
            fields=forwarded(headers),
            caller_ids=request_ids.texts(headers),
        )
        quota = quotas.quota_of(gateway.projection.state, principal, request.model)
        # A session begins if any token is left, and is settled with what it used.
        reserved = [] if quota is None else await quotas.reserved(gateway, quota, int(quota.tokens))
        uplink = uplinks[identity] = Uplink(Hold(gateway.bodies))
        try:
            delivery = gateway.ask(request, route.binding, idle=math.inf)
            delivery.reserved, reserved = reserved, []
            try:
                fields = [(b"x-request-id", identity.encode())]
                if not await _taken(delivery, receive, send):
                    return
                session = _Running(Session(asked, route.name), delivery, uplink, send, fields)
                check = partial(_check, scope, asked)
                await session.run(receive, self._idle, check)
            finally:
                gateway.leave(delivery)
        finally:
            settle(reserved, None)
            uplink.close()
            del uplinks[identity]


def _check(scope: Any, model: str) -> None:
    """Raise ApiError unless the key with which a session was opened allows it now."""
    if not still_required(scope, "infer").may_use(model):
        text = f"the API key may not use the model {model!r} any more"
        raise ApiError(403, text, kind="permission_error", code="model_not_allowed")


def _model(query: bytes, state: State, principal: Principal) -> str:
    """Return the model that a query names, or else the only one with sessions. Raise ApiError 400.

    vLLM's clients name none before their first event.
    """
    named = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("model", [])
    if len(named) == 1:
        return named[0]
    known = [
        model.name
        for model in state.models.values()
        if serves(REALTIME, model.tasks) and principal.may_use(model.name)
    ]
    if not named and len(known) == 1:
        return known[0]
    listed = ", ".join(map(repr, sorted(known)[:_LISTED])) or "none yet"
    text = f"name one model: {REALTIME.path}?model=NAME; those that serve sessions: {listed}"
    raise ApiError(400, text, param="model")


async def _taken(delivery: Delivery, receive: Receive, send: Send) -> bool:
    """Return whether an engine takes a session; its client is told if not. Raise ApiError."""
    leaving = asyncio.ensure_future(receive())
    try:
        head = await _before(leaving, delivery)
        if head is None:
            return False
        if head.failure:
            raise error_of(head)
        if head.status == SWITCHED:
            return True
        said, last = head.body, head
        while not last.end and len(said) <= LARGEST_REFUSAL:
            last = await delivery.next()
            said += last.body
        kind = head.content_type or "text/plain"
        fields = [(b"content-type", kind.encode("latin-1")), (b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": head.status, "headers": fields})
        await send({"type": "http.response.body", "body": said, "more_body": False})
        return False
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


async def _before(leaving: "asyncio.Future[Any]", delivery: Delivery) -> Piece | None:
    """Return the first piece of an answer; None if its client leaves before."""
    coming = asyncio.ensure_future(delivery.next())
    await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
    if coming.done():
        return coming.result()
    delivery.leave()
    await asyncio.gather(coming, return_exceptions=True)
    return None


class _Running:
    """A session that an engine has taken: carries out what `realtime.step` says."""

    def __init__(
        self,
        session: Session,
        delivery: Delivery,
        uplink: Uplink,
        send: Send,
        fields: list[tuple[bytes, bytes]],
    ) -> None:
        self._session = session
        self._delivery = delivery
        self._uplink = uplink
        self._send = send
        self._fields = fields
        self._active = asyncio.get_running_loop().time()

    async def run(self, receive: Receive, idle: float, check: Callable[[], None]) -> None:
        """Pass messages both ways until either side ends, or both are silent for `idle` s.

        It ends too once `check` raises ApiError, which is asked before each message of the client.
        """
        await self._happens(Accepted())
        works = (
            self._from_client(receive, check),
            self._from_engine(),
            self._until_idle(idle),
            self._until_refused(check),
        )
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                about = request_fields(self._delivery.flight.request)
                log.error("session %s failed", self._delivery.id, exc_info=error, extra=about)
                await self._happens(Ended(realtime.INTERNAL, "the gateway failed"))

    async def _from_client(self, receive: Receive, check: Callable[[], None]) -> None:
        while self._session.phase is Phase.OPEN:
            message: Any = await receive()
            if message["type"] != "websocket.receive":
                await self._happens(ClientLeft())
                return
            if await self._refused(check):
                return
            self._active = asyncio.get_running_loop().time()
            text = message.get("text")
            said = Frame("bytes", message["bytes"]) if text is None else _text(text)
            await self._happens(ClientSaid(said))
            await self._uplink.room()

    async def _from_engine(self) -> None:
        reader = FrameReader()
        while self._session.phase is Phase.OPEN:
            try:
                piece = await self._delivery.next()
                said = reader.feed(piece.body) if not piece.failure else ()
            except ClientGone:
                return
            except BadFrame as error:
                await self._happens(
                    Ended(realtime.INTERNAL, f"the engine sent no message: {error}")
                )
                return
            self._active = asyncio.get_running_loop().time()
            for frame in said:
                await self._happens(EngineSaid(frame))
            if piece.failure:
                await self._happens(_end_of(piece))
            elif piece.end:
                await self._happens(Ended(realtime.INTERNAL, "the engine ended the session"))

    async def _until_idle(self, idle: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left = self._active + idle - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(left)
        text = f"neither side has said anything for {idle:.0f} s"
        await self._happens(Ended(realtime.POLICY, text, reason="session_idle"))

    async def _until_refused(self, check: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(LOOK)
            if await self._refused(check):
                return

    async def _refused(self, check: Callable[[], None]) -> bool:
        """Return whether the client may not go on, which ends the session."""
        try:
            check()
        except ApiError as error:
            said = error.body
            ended = Ended(realtime.POLICY, said.message, said.type, str(said.code))
            await self._happens(ended)
            return True
        return False

    async def _happens(self, event: Event) -> None:
        self._session, effects = realtime.step(self._session, event)
        for effect in effects:
            match effect:
                case Accept():
                    accept: Any = {"type": "websocket.accept", "headers": self._fields}
                    await self._send(accept)
                case ToEngine(frame=frame):
                    if not self._uplink.put(frames.encode(frame)):
                        text = "the gateway has as many bytes of requests in hand as it may"
                        await self._happens(Ended(realtime.TRY_LATER, text))
                case ToClient(frame=frame):
                    await self._send(_message(frame))
                case Close(code=code, reason=reason):
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _text(said: str) -> Frame:
    return Frame("text", said.encode())


def _message(frame: Frame) -> Any:
    if frame.kind == "text":
        return {"type": "websocket.send", "text": frame.data.decode(errors="replace")}
    return {"type": "websocket.send", "bytes": frame.data}


def _end_of(piece: Piece) -> Ended:
    """Return how a session ends with a failure."""
    failure: str = piece.failure
    code = _CODES.get(failure, realtime.INTERNAL)
    if failure == Failure.CANT_CONTINUE:
        broke = piece.body.partition(b":")[0].decode(errors="replace")
        code = _CODES.get(broke, realtime.RESTART)
    return Ended(code, str(error_of(piece)), reason=failure.replace("-", "_"))
