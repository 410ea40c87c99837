"""The Litestar application: its routes and their dependencies."""

import asyncio
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp

from nebula.actors.gateway.actor import Gateway
from nebula.http import exceptions, paths, root_path
from nebula.http.authentication import Authentication, check_scope, key_ring
from nebula.http.cors import Cors
from nebula.http.document import routes as describing
from nebula.http.engine_logs import Followers
from nebula.http.guard import Guard
from nebula.http.inference import InferenceRoutes, Limits
from nebula.http.origins import Doors
from nebula.http.routes import HANDLERS
from nebula.http.scanning import Scans
from nebula.http.semantics import Semantics
from nebula.http.server.stopping import Stopping
from nebula.http.short_way import ShortWay
from nebula.http.shown_log import GatewayLog
from nebula.http.sign_in.provider import Provider
from nebula.http.starting import check_started
from nebula.store.batch_queue import BatchQueue
from nebula.store.files import Files
from nebula.store.responses import ResponseStore


def create_app(
    gateway: Gateway,
    limits: Limits,
    doors: Doors | None = None,
    stopping: Stopping | None = None,
    store: ResponseStore | None = None,
    sign_in: Provider | None = None,
    routes: Callable[..., InferenceRoutes] = InferenceRoutes,
) -> ASGIApp:
    """Build the app around a gateway actor, which the caller runs.

    `doors`: the hosts and origins that it answers [those of this machine]. `stopping`: refuses
    requests at the end [none]. `store`: of responses and conversations [one of default size].
    `sign_in`: where people sign in [nowhere]. `routes`: makes the paths that engines answer.
    Raise NotARoot.
    """
    kept = store or ResponseStore(gateway.connection, gateway.log.replicas)
    scans, followers = Scans(), Followers()
    past = GatewayLog(gateway)
    doors = doors or Doors()
    root = doors.root
    respond_to_path = partial(paths.respond_to_path, root)
    stored = Files(gateway.connection, gateway.log.replicas)
    queue = BatchQueue(gateway.connection, gateway.log.replicas)
    litestar = Litestar(
        route_handlers=HANDLERS,
        guards=[check_scope],
        dependencies={
            "gateway": Provide(lambda: gateway, sync_to_thread=False),
            "past": Provide(lambda: past, sync_to_thread=False),
            "scans": Provide(lambda: scans, sync_to_thread=False),
            "followers": Provide(lambda: followers, sync_to_thread=False),
            "responses_kept": Provide(lambda: kept, sync_to_thread=False),
            "limits": Provide(lambda: limits, sync_to_thread=False),
            "description": Provide(lambda: description, sync_to_thread=False),
            "root": Provide(lambda: root, sync_to_thread=False),
            "doors": Provide(lambda: doors, sync_to_thread=False),
            "files": Provide(lambda: stored, sync_to_thread=False),
            "queue": Provide(lambda: queue, sync_to_thread=False),
            "engine_paths": Provide(lambda: inference, sync_to_thread=False),
            "sign_in": Provide(lambda: sign_in, sync_to_thread=False),
        },
        before_request=check_started(gateway),
        exception_handlers={
            NotFoundException: respond_to_path,
            MethodNotAllowedException: respond_to_path,
            Exception: exceptions.respond,
        },
        openapi_config=None,
        logging_config=None,
    )

    @cache
    def description() -> dict[str, Any]:
        from nebula.http.document.making import document  # most gateways are never asked for it

        return document(litestar, root, describing.version())

    root_path.check(root, paths.served_by(litestar))
    inference = routes(Semantics(litestar), gateway, limits, kept, root)
    app = stopping.around(inference) if stopping else inference
    keys = key_ring(gateway, doors)
    known = Authentication(app, gateway, keys, doors)
    guard = Guard(known, doors)
    if doors.origins:
        return Cors(guard, doors)
    if type(inference) is InferenceRoutes:
        begun = stopping.begun if stopping else asyncio.Event()
        guard.short_way = ShortWay(inference, guard, keys, begun)
    return guard
