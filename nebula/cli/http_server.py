"""Runs a gateway with its HTTP server, and ends both in order: requests first."""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import uvicorn

from nebula.actors.actor import cancel
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.batch_keeper import BatchKeeper
from nebula.cli.keyless import keyless
from nebula.cli.listening import listened
from nebula.cli.process import FATAL, fail, on_stop
from nebula.cli.quiet_server import QuietServer
from nebula.cli.worker import AtWork
from nebula.http.app import create_app
from nebula.http.authentication import key_ring
from nebula.http.batches.line_requests import LineRequests
from nebula.http.batches.line_worker import LineWorker
from nebula.http.guard import Guard
from nebula.http.inference import InferenceRoutes, Limits
from nebula.http.origins import Doors
from nebula.http.principals import KeyRing
from nebula.http.responses.background import BackgroundWork
from nebula.http.root_path import NotARoot
from nebula.http.server.capacity import Capacity, raise_open_files
from nebula.http.server.connection import HttpConnection
from nebula.http.server.listening import HostPort, reached_at
from nebula.http.server.stopping import UNREAD_LAST, Stopping
from nebula.http.server.unix_sockets import UnixSocket
from nebula.http.sign_in.provider import Provider
from nebula.http.sign_in.settings import SignInSettings
from nebula.http.worker_metrics import WorkerMetrics
from nebula.store.batch_queue import BatchQueue
from nebula.store.files import Files
from nebula.store.responses import ResponseStore

log = logging.getLogger(__name__)


class _Server(QuietServer):
    """The server of a gateway."""

    def __init__(self, config: uvicorn.Config, made: Callable[..., HttpConnection]) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._made = made

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.up.set()

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of a connection that is handed to this process."""
        return self._made(self.config, self.server_state, self.lifespan.state)

    def take_over(self) -> None:
        """Have tasks answer all running requests: they are waited for."""
        for connection in tuple(self.server_state.connections):
            cast("HttpConnection", connection).take_over()

    def give_up_arriving(self) -> None:
        """Refuse the requests that have not arrived completely."""
        for connection in tuple(self.server_state.connections):
            cast("HttpConnection", connection).give_up_arriving()


async def serve_http(
    actor: Gateway,
    place: HostPort | UnixSocket,
    limits: Limits,
    doors: Doors,
    keep_alive: float,
    grace: float,
    store: ResponseStore,
    sign_in: SignInSettings | None = None,
    routes: Callable[..., InferenceRoutes] = InferenceRoutes,
    at_work: AtWork | None = None,
) -> None:
    """Run a gateway and its HTTP server until a signal or the actor's end.

    `keep_alive`: seconds that a connection may be idle. `grace`: seconds that requests get to end.
    `store`: of responses and conversations. `sign_in`: where people sign in, if anywhere.
    `routes`: makes the paths that engines answer. `at_work`: the worker that this process is, whose
    parent listens; None if it listens itself.
    """
    provider = Provider(sign_in) if sign_in else None
    stopping = Stopping()
    try:
        app = create_app(actor, limits, doors, stopping, store, provider, routes)
    except NotARoot as error:
        fail(f"--root-path: {error}", FATAL)
    listening = listened(place) if at_work is None else []
    if isinstance(place, HostPort):
        actor.figures.address = reached_at(place.host, place.port)
    short_way = app.short_way if isinstance(app, Guard) else None
    capacity = Capacity(actor.bodies, open_files=raise_open_files(), keep_alive=keep_alive)
    if at_work is not None:
        capacity.left = at_work.left
    made = partial(HttpConnection, capacity=capacity, short_way=short_way)
    server = _Server(
        uvicorn.Config(
            app,
            root_path=doors.root,
            interface="asgi3",
            loop="none",
            http=made,  # type: ignore[arg-type]
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=UNREAD_LAST,
        ),
        made,
    )
    server.server_state.tasks = stopping.under_way  # uvicorn's set of the requests that run
    log.info(
        "%s %s, for %d connections at most: %d files may be open",
        "listening on" if at_work is None else "answering at",
        place.described,
        capacity.connections,
        capacity.open_files,
    )

    def signalled() -> None:
        server.take_over()
        stopping.signal()
        server.force_exit = stopping.at_once  # it waits for no connection then

    on_stop(signalled)
    acting = asyncio.create_task(actor.run())
    clientless = _work_without_clients(actor, limits, store, key_ring(actor, doors))
    stopped = asyncio.create_task(stopping.begun.wait())
    locked = asyncio.create_task(keyless(actor, place, doors, sign_in=sign_in is not None))
    serving = asyncio.create_task(server.serve(sockets=listening))
    beside = [asyncio.create_task(capacity.watch())]
    if at_work is not None:
        worker = at_work.worker
        metrics = WorkerMetrics(actor.figures, worker.number, worker.of, worker.mark)
        beside.append(asyncio.create_task(metrics.run(), name="tell metrics"))
        beside.append(asyncio.create_task(_take(at_work, actor, server), name="take connections"))
    try:
        await asyncio.wait((acting, serving, stopped, locked), return_when=asyncio.FIRST_COMPLETED)
        stopping.begun.set()
        actor.leaving.set()
        if at_work is not None:
            at_work.leave()
        await cancel(clientless)
        if acting.done() or not await stopping.drained(grace):
            actor.let_all_go()
            server.give_up_arriving()
            await stopping.heard_out()
    finally:
        await cancel([*beside, *clientless])
        stopped.cancel()
        locked.cancel()
        server.stop()
        await asyncio.gather(serving, return_exceptions=True)
        (place if at_work is None else at_work).close()
        actor.stop()
        await asyncio.gather(acting, return_exceptions=True)
        await actor.connection.close()
    await acting
    if not locked.cancelled():
        fail(locked.result(), FATAL)


async def _take(at_work: AtWork, actor: Gateway, server: _Server) -> None:
    """Take a worker's connections once its server is there."""
    await server.up.wait()
    await at_work.take(actor, server.protocol)


def _work_without_clients(
    actor: Gateway, limits: Limits, store: ResponseStore, keys: KeyRing
) -> list[asyncio.Task[None]]:
    """Start the parts of a gateway that work without a client."""
    replicas = actor.log.replicas
    files, queue = Files(actor.connection, replicas), BatchQueue(actor.connection, replicas)
    requests = LineRequests(actor, store, limits, keys)
    return [
        asyncio.create_task(BatchKeeper(actor, files, queue).run(), name="keep batches"),
        asyncio.create_task(LineWorker(actor, files, queue, requests).run(), name="send lines"),
        asyncio.create_task(
            BackgroundWork(actor, store, limits, keys).run(), name="make responses"
        ),
    ]
