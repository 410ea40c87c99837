"""One client's connection: its requests are answered in order, or refused.

uvicorn's server runs it in place of uvicorn's own protocol, which reads nothing after an `Upgrade`,
has no bounds, and answers HTTP/1.0 in chunks (ADR 35).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from litestar.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from nebula.actors.gateway.budget import Hold
from nebula.http.errors import ApiError, stopping, unavailable
from nebula.http.server import lingering
from nebula.http.server.arrival import Arrival, Progress
from nebula.http.server.capacity import Capacity
from nebula.http.server.cycle import Cycle
from nebula.http.server.heads import Fields, Head
from nebula.http.server.idling import Idling
from nebula.http.server.lingering import Lingering
from nebula.http.server.parsing import Parsing
from nebula.http.server.refusing import await_refusal, refusal
from nebula.http.server.scopes import shared_scope
from nebula.http.server.websocket import SOCKETS, SocketCycle
from nebula.http.server.writing import TurnTransport
from nebula.openai.realtime import TRY_LATER

UNREAD = 60.0
"""Seconds for which a client may read nothing while data waits for it."""

PIPELINED = 32
"""Requests that may wait on a connection for the answer to the previous request."""

WAITING = 64 * 1024
"""Unread bytes of a body above which no more are read from the socket."""

_TURNED_AWAY_TIME = 5.0


class HttpConnection(asyncio.Protocol):
    """One connection of uvicorn's server; all connections of a gateway share `capacity`.

    `short_way`: answers a request without a task, or returns False.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        capacity: Capacity,
        short_way: Callable[[Cycle, bytes], bool] | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._app = cast("ASGIApp", config.loaded_app)
        self._server = server_state
        self._app_state = app_state
        self._capacity = capacity
        self._short_way = short_way
        self._loop = _loop or asyncio.get_running_loop()
        self._entered = True
        self._transport: TurnTransport = None  # type: ignore[assignment]
        self.write: Callable[[bytes], None] = None  # type: ignore[assignment]
        self.write_now: Callable[[bytes], None] = None  # type: ignore[assignment]
        self._scope_of_all: dict[str, Any] = {}
        self._held = Hold(capacity.bodies)
        self._held_of_head = 0
        self._parsing = Parsing(self, config.root_path)
        self._arriving: Cycle | None = None
        self._running: Cycle | None = None
        self._socket: SocketCycle | None = None
        self._waiting: deque[tuple[Cycle, ASGIApp]] = deque()
        self._deaf = False
        self._ending = False
        self._reading_held = False
        self.congested = False
        self._writable = asyncio.Event()
        self._idling = Idling(
            self._loop,
            lambda: capacity.keep_alive if self._entered else _TURNED_AWAY_TIME,
            lambda: self._running is not None or self._parsing.arriving,
            lambda: self._transport.close(),
        )
        self._arrival = Arrival(self._loop, self._progress, self.refuse)
        self._hanging_up: asyncio.TimerHandle | None = None
        self._lingering: Lingering = None  # type: ignore[assignment]

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse the connection if it is one too many."""
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._transport = TurnTransport(transport)
        self.write, self.write_now = self._transport.write, self._transport.write_now
        self._lingering = Lingering(self._transport, self._loop)
        self._scope_of_all = shared_scope(transport)
        self._entered = self._capacity.enter()
        if self._capacity.crowded:
            transport.abort()
            return
        self._idling.begin()

    def connection_lost(self, _: Exception | None) -> None:
        """End the running requests."""
        self._server.connections.discard(self)
        self._capacity.leave(entered=self._entered)
        self._deaf = True
        self._parsing.stop()
        for cycle in (self._running, self._arriving, *(each for each, _ in self._waiting)):
            if cycle is not None:
                cycle.disconnect()
        self._waiting.clear()
        self._held.release()
        self._arrival.end()
        self._idling.end()
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        self._lingering.end()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Read bytes of requests; after a refused request nothing more is read."""
        if self._deaf:
            self._lingering.hear()
            return
        parsing = self._parsing
        parsing.feed(data)
        if parsing.arriving and not self._deaf:
            self._still_arriving()

    def eof_received(self) -> bool:
        """Return whether the connection stays open, which it does until all is answered.

        The client closed its side. Applications are told that it left; answers are still sent.
        """
        if self._running is None:
            self._transport.close()  # only after the data that is kept for the end of the turn
            return False
        for cycle in (self._running, *(each for each, _ in self._waiting)):
            cycle.leave()
        cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Pause answers until the client reads; close the connection if that takes too long."""
        self.congested = True
        self._writable.clear()
        self._hanging_up = self._loop.call_later(UNREAD, self._transport.abort)

    def resume_writing(self) -> None:
        """Resume the answers."""
        self.congested = False
        self._writable.set()
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None
        if self._socket is not None:
            self.wants_body()

    def take_over(self) -> None:
        """Have a task answer what would be answered without one."""
        if self._running is not None and self._running.take_over is not None:
            self._running.take_over()

    def shutdown(self) -> None:
        """End as soon as the running answers are complete; uvicorn's server calls it."""
        self._ending = True
        self.give_up_arriving()
        self._parsing.last = True
        if self._running is not None:
            self._running.keep_alive = False
        elif self._lingering.begun:
            self._lingering.hurry()
        else:
            self._transport.close()

    def give_up_arriving(self) -> None:
        """Refuse an incomplete request: the gateway ends and can't wait for the rest."""
        if self._parsing.arriving and not self._deaf:
            self.refuse(stopping())

    # Called by the parser

    def _admit(self) -> None:
        """Take on a request whose head has come. Raise ApiError 503."""
        self._forget_head()
        if not self._entered:
            self._arriving = None
            text = f"{self._capacity.connections} connections are open already, as many as may be"
            raise unavailable(text)

    def _scope_of(self, method: bytes, head: Head, fields: Fields) -> Any:
        return {
            **self._scope_of_all,
            "method": method.decode("ascii"),
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": fields,
            "state": self._app_state.copy(),
        }

    def begin(self, method: bytes, head: Head, fields: Fields, *, persists: bool) -> None:
        """Have a request answered, after the earlier ones on this connection. Raise ApiError."""
        self._admit()
        if len(self._waiting) >= PIPELINED:
            self._parsing.last, persists = True, False
        scope = self._scope_of(method, head, fields)
        if head.http_1_0:
            scope["http_version"] = "1.0"
        cycle = Cycle(
            self,
            scope,
            keep_alive=persists,
            remaining=head.length,
            expects=head.expects,
            http_1_0=head.http_1_0,
        )
        self._queue(cycle, self._app)

    def whole(self, head: Head, fields: Fields, body: bytes) -> bool:
        """Have a request that came as a whole answered without a task; False if it is not."""
        if self._short_way is None or self._running is not None or not self._entered:
            return False
        scope = self._scope_of(b"POST", head, fields)
        cycle = self._running = Cycle(self, scope, keep_alive=True)
        cycle.come_whole(len(body))
        if not self._short_way(cycle, body):
            self._running = None
            return False
        self._arriving = cycle
        return True

    def switch(self, head: Head, fields: Fields) -> bool:
        """Begin a WebSocket where there is one; else the offer is passed over. Raise ApiError."""
        if head.path.rstrip("/") not in SOCKETS:
            return False
        self._admit()
        self._arrival.end()
        self._socket = SocketCycle(self, self._scope_of(b"GET", head, fields))
        self._queue(self._socket, self._app)
        return True

    def raw(self, data: bytes) -> None:
        """Pass on bytes of a WebSocket."""
        try:
            self.body(data)
        except ApiError as error:
            self._socket.end(TRY_LATER, str(error))  # type: ignore[union-attr]

    def body(self, part: bytes) -> None:
        """Pass on a part of the body. Raise ApiError 503."""
        cycle = self._arriving
        if cycle is None or cycle.complete:
            return
        if not self._held.grow(len(part)):
            raise unavailable("the gateway has as many bytes of requests in hand as it may")
        cycle.feed(part)
        if cycle.waiting > WAITING or (self.congested and self._socket is not None):
            self._hold_reading()

    def promise(self, size: int) -> None:
        """Pass on the least length of the body."""
        if self._arriving is not None and size > self._arriving.received:
            self._arriving.promise(size)

    def end(self) -> None:
        """Mark a request as complete."""
        self._arrival.end()
        if self._arriving is not None:
            self._arriving.end_body()

    def refuse(self, error: ApiError) -> None:
        """Refuse the arriving request, and take no further one."""
        self._deaf = True
        self._arrival.end()
        cycle = self._arriving
        if cycle is None or not cycle.more_body:
            self._queue(refusal(self, self._scope_of_all, self._parsing, error), await_refusal)
        elif cycle.complete:
            self._linger()
        else:
            cycle.refuse(error)
        self._parsing.stop()
        self._forget_head()
        self.wants_body()

    def over(self) -> None:
        """Ignore all further bytes."""
        self._deaf = True

    def _queue(self, cycle: Cycle, app: ASGIApp) -> None:
        self._arriving = cycle
        if self._running is None:
            self.run(cycle, app)
        else:
            self._waiting.append((cycle, app))
            self._hold_reading()

    def run(self, cycle: Cycle, app: ASGIApp) -> None:
        """Let an application answer a request in a task."""
        self._running = cycle
        task = self._loop.create_task(cycle.run(app))
        task.add_done_callback(self._server.tasks.discard)
        self._server.tasks.add(task)

    # Called by a cycle

    @property
    def fields(self) -> bytes:
        """Return the field lines that every answer has."""
        capacity, fields = self._capacity, self._server.default_headers
        return capacity.lines if fields is capacity.fields else capacity.renew_lines(fields)

    def break_off(self, *, evident: bool) -> None:
        """End the connection amid an answer, with a reset if the answer would look complete."""
        if evident:
            self._transport.close()
        else:
            self._transport.reset()

    async def writable(self) -> None:
        """Wait until the client has read enough to write more."""
        await self._writable.wait()

    def wants_body(self) -> None:
        """Resume reading if it was paused."""
        if self._reading_held:
            self._reading_held = False
            self._transport.resume_reading()

    def took(self, size: int) -> None:
        """Stop counting bytes that the application has taken."""
        self._held.shrink(size)

    def answered(self, cycle: Cycle) -> None:
        """Continue with the next request, or end."""
        if cycle.waiting:
            self._held.shrink(cycle.waiting)
            cycle.waiting = 0
        self._running = None
        if self._transport.is_closing():
            return
        if not cycle.keep_alive:
            self._waiting.clear()
            if self._deaf or self._parsing.arriving or self._socket is not None:
                self._linger()
            else:
                self._transport.close()
            return
        if self._reading_held:
            self.wants_body()
        if self._waiting:
            self.run(*self._waiting.popleft())
        else:
            self._idling.again()

    def _hold_reading(self) -> None:
        if not self._reading_held:
            self._reading_held = True
            self._transport.pause_reading()

    # Clocks

    def _still_arriving(self) -> None:
        """Count the stored bytes of a head, and start its time limit."""
        more = self._parsing.kept - self._held_of_head
        if more > 0 and not self._held.grow(more):
            self.refuse(unavailable("the gateway has as many bytes of requests in hand as it may"))
            return
        self._held_of_head += max(more, 0)
        self._arrival.begin()

    def _forget_head(self) -> None:
        self._held.shrink(self._held_of_head)
        self._held_of_head = 0

    def _progress(self) -> Progress:
        received = self._arriving.received if self._arriving is not None else 0
        return Progress(self._parsing.in_head, self._reading_held, received)

    def _linger(self) -> None:
        """Close the sending side, and read on while the client is still sending."""
        self._deaf = True
        if self._lingering.begun or self._transport.is_closing():
            return
        still = lingering.LINGERING_STILL if self._entered else lingering.TURNED_AWAY_STILL
        self._lingering.begin(still)
        self.wants_body()
        if self._ending:
            self._lingering.hurry()
