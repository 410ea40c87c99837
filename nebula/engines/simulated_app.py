"""The ASGI application of a simulated engine: vLLM's paths, as the tasks of its model have them.

No framework and no task of its own per request: with all delays at 0 an answer costs its JSON and
little more. The process with its start and flags is ``simulated``.
"""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from nebula.engines.simulated_adapters import LoadAdapter, UnloadAdapter
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_generate_routes import RESPONSES, GenerateRoutes
from nebula.engines.simulated_http import (
    AsgiApp,
    Exchange,
    Handler,
    NoRoute,
    Receive,
    Refusal,
    Routes,
    Scope,
    Send,
    lifespan,
    middleware,
)
from nebula.engines.simulated_pooling_routes import PoolingRoutes
from nebula.engines.simulated_realtime import RealtimeSession, refuse
from nebula.engines.simulated_report_routes import ReportRoutes
from nebula.engines.simulated_settings import Settings
from nebula.engines.simulated_speech_routes import SpeechRoutes
from nebula.engines.simulated_token_routes import TokenRoutes

_load = msgspec.json.Decoder(LoadAdapter)
_unload = msgspec.json.Decoder(UnloadAdapter)


class SimulatedEngine:
    """The engine and its ASGI application, with the middleware of its settings around it.

    As Starlette does it, the scope of every request and of the lifespan has ``app`` and ``state``
    before the first middleware sees it, and the middleware named last is the outermost. As in
    vLLM, the app's own ``state`` has the ``engine_client``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.core = Core(settings)
        self.state = SimpleNamespace(engine_client=self.core)
        self._routes = self._make_routes()
        self._stack: AsgiApp = self._respond
        if settings.otlp_traces_endpoint is not None:
            from nebula.engines.simulated_tracing import traced  # not for engines without traces

            self._stack = traced(self._stack, settings.otlp_traces_endpoint)
        for path in settings.middleware:
            self._stack = middleware(path)(self._stack)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        scope["app"] = self
        scope.setdefault("state", {})
        await self._stack(scope, receive, send)

    def _make_routes(self) -> Routes:
        """Return what vLLM registers for a model's tasks (launchers/api_server/routers.py).

        So an embedding engine answers a chat with "Not Found".
        """
        core, settings = self.core, self.settings
        routes = ReportRoutes(core).routes() | TokenRoutes(core).routes()
        if "generate" in settings.supported_tasks:
            routes |= GenerateRoutes(core).routes()
        if "transcription" in settings.supported_tasks:
            routes |= SpeechRoutes(core).routes()
        if settings.pooling_task is not None:
            routes |= PoolingRoutes(core).routes()
        if settings.enable_lora:
            routes["/v1/load_lora_adapter"] = {"POST": self._load_adapter}
            routes["/v1/unload_lora_adapter"] = {"POST": self._unload_adapter}
        return routes

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            hears = "realtime" in self.settings.supported_tasks
            if hears and scope["path"] == "/v1/realtime":
                await RealtimeSession(self.core, receive, send).serve()
            else:
                await refuse(receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            methods = self._methods(scope["path"])
            if methods is None:
                raise NoRoute(404)
            handler = methods.get(scope["method"])
            if handler is None:
                raise NoRoute(405)
            await handler(exchange)
        except Refusal as refusal:
            await exchange.reply(refusal.body, refusal.status, retry_after=refusal.retry_after)
        except ConnectionAbortedError:
            pass  # gone before its request was read: nothing had begun

    def _methods(self, path: str) -> dict[str, Handler] | None:
        methods = self._routes.get(path)
        if methods is None and path.startswith(f"{RESPONSES}/"):
            tail = "/cancel" if path.endswith("/cancel") else ""
            return self._routes.get(f"{RESPONSES}/{{response_id}}{tail}")
        return methods

    async def _load_adapter(self, exchange: Exchange) -> None:
        await exchange.text(self.core.adapters.load(await exchange.read(_load)))

    async def _unload_adapter(self, exchange: Exchange) -> None:
        await exchange.text(self.core.adapters.unload(await exchange.read(_unload)))
