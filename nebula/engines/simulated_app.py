"""The ASGI application of a simulated engine: vLLM's paths, its queue, and faults on demand.

No framework and no task of its own per request: with all delays at 0 an answer costs its JSON and
little more. The process with its start and flags is ``simulated``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from nebula.engines.simulated_adapters import Adapter, Adapters, LoadAdapter, UnloadAdapter
from nebula.engines.simulated_answers import (
    Answer,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    embeddings_body,
    fitting,
    tokens_of,
)
from nebula.engines.simulated_http import (
    AsgiApp,
    Exchange,
    Receive,
    Refusal,
    Scope,
    Send,
    encode,
    lifespan,
    middleware,
)
from nebula.engines.simulated_orders import Orders, orders
from nebula.engines.simulated_settings import Control, Settings
from nebula.engines.simulated_tokens import text_of

Handler = Callable[[Exchange], Awaitable[None]]
T = TypeVar("T")

VERSION = "0.32.0+simulated"  # the vLLM whose shapes are copied

# Number of tokens that are sent before other tasks run: otherwise a long answer without delays
# would block the event loop, and never notice that its client is gone.
_BREATH = 32

log = logging.getLogger("simulated")


_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)
_embedding = msgspec.json.Decoder(EmbeddingRequest)
_load = msgspec.json.Decoder(LoadAdapter)
_unload = msgspec.json.Decoder(UnloadAdapter)
_control = msgspec.json.Decoder(Control)


class SimulatedEngine:
    """The engine and its ASGI application, with the middleware of its settings around it.

    As Starlette does it, the scope of every request and of the lifespan has ``app`` and ``state``
    before the first middleware sees it, and the middleware named last is the outermost.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.running = self.finished = self.aborted = self.begun = self.refused = 0
        self.first_token, self.token = settings.first_token, settings.token
        self._adapters = Adapters(settings.names, settings.max_lora_rank, settings.max_loras)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._resumed: asyncio.Future[None] | None = None  # to come, while the engine is stalled
        self._last_step: dict[str, float] = {}  # what a stalled core's last step left
        self._created = int(time.time())
        self._sick = False
        self._routes = self._make_routes()
        self._stack: AsgiApp = self._respond
        for path in settings.middleware:
            self._stack = middleware(path)(self._stack)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        scope["app"] = self
        scope.setdefault("state", {})
        await self._stack(scope, receive, send)

    def _make_routes(self) -> dict[str, dict[str, Handler]]:
        routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/version": {"GET": self._version},
            "/v1/models": {"GET": self._models},
            "/metrics": {"GET": self._metrics},
            "/simulate": {"GET": self._counts, "POST": self._control},
        }
        # vLLM registers only what the model can do (launchers/api_server/routers.py), so an
        # embedding engine answers a chat with "Not Found".
        if self.settings.runner == "pooling":
            routes["/v1/embeddings"] = {"POST": self._embed}
        else:
            routes["/v1/chat/completions"] = {"POST": self._chat}
            routes["/v1/completions"] = {"POST": self._complete}
            routes["/detokenize"] = {"POST": self._detokenize}
        if self.settings.enable_lora:
            routes["/v1/load_lora_adapter"] = {"POST": self._load_adapter}
            routes["/v1/unload_lora_adapter"] = {"POST": self._unload_adapter}
        return routes

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            methods = self._routes.get(scope["path"])
            if methods is None:
                raise Refusal(404, "Not Found")
            handler = methods.get(scope["method"])
            if handler is None:
                raise Refusal(405, "Method Not Allowed")
            await handler(exchange)
        except Refusal as refusal:
            await exchange.reply(refusal.body, refusal.status, retry_after=refusal.retry_after)
        except ConnectionAbortedError:
            pass  # gone before its request was read: nothing had begun

    # Generation

    async def _chat(self, exchange: Exchange) -> None:
        request = await exchange.read(_chat)
        await self._generate(exchange, request, chat=True)

    async def _complete(self, exchange: Exchange) -> None:
        request = await exchange.read(_completion)
        await self._generate(exchange, request, chat=False)

    async def _generate(
        self, exchange: Exchange, request: ChatRequest | CompletionRequest, *, chat: bool
    ) -> None:
        model, adapter = self._resolve(request.model)
        prompt = request.read()
        says = self._adapters.says(adapter, " ".join(prompt.words)) if adapter else None
        told = orders(prompt.words) if self.settings.orders else None
        if told is not None:
            self._obey(told)
        count, finish_reason = request.length(self.settings.tokens - prompt.said)
        answer = Answer(
            chat=chat,
            id=self._answer_id(exchange, "chatcmpl-" if chat else "cmpl-"),
            created=int(time.time()),
            model=model,
            tokens=tokens_of(prompt, count, says),
            finish_reason=finish_reason,
            prompt_tokens=fitting(prompt.tokens, self.settings.max_model_len),
            said=prompt.said,
            prompt_ids=request.prompt_ids() if request.return_token_ids else None,
            interval=request.stream_interval or 1,
        )
        if not request.streams():
            await self._run(exchange, self._whole, answer)
            return
        if told is not None and told.breaks:
            await self._run(exchange, self._broken, answer, stream=True)
            return
        options = request.stream_options
        usage = options is not None and bool(options.include_usage)
        await self._run(exchange, self._streamed, (answer, usage), stream=True)

    def _obey(self, told: Orders) -> None:
        """Do what a prompt orders. Raise Refusal."""
        if told.exit is not None:
            log.error("Exits, as a prompt orders, with code %d", told.exit)
            os._exit(told.exit)
        self._sick = self._sick or told.sick
        if told.status is not None:
            self.refused += 1
            raise Refusal(told.status, "The prompt ordered it.", retry_after=told.retry_after)

    async def _broken(self, exchange: Exchange, answer: Answer) -> None:
        """Begin a stream and break it off as vLLM does."""
        await exchange.part(answer.opening() + next(answer.events()))
        failure = Refusal(500, "The prompt ordered it.", "InternalServerError")
        await exchange.part(b"data: " + failure.body + b"\n\ndata: [DONE]\n\n")
        await exchange.part(b"", more=False)

    async def _whole(self, exchange: Exchange, answer: Answer) -> None:
        seconds = self.first_token + self.token * (len(answer.tokens) - 1)
        if seconds or self._resumed:
            await self._pace(exchange, seconds)
        await exchange.reply(answer.body())

    async def _streamed(self, exchange: Exchange, job: tuple[Answer, bool]) -> None:
        answer, usage = job
        seconds = self.first_token
        for number, event in enumerate(answer.events()):
            if seconds or self._resumed or number % _BREATH == _BREATH - 1:
                await self._pace(exchange, seconds)
            if number == 0 and (opening := answer.opening()):
                await exchange.part(opening)
            await exchange.part(event)
            seconds = self.token * answer.interval
        if closing := answer.closing(usage):
            await exchange.part(closing)
        await exchange.part(b"data: [DONE]\n\n")
        await exchange.part(b"", more=False)

    async def _detokenize(self, exchange: Exchange) -> None:
        request = await exchange.read(_detokenize)
        self._resolve(request.model)
        await exchange.reply(encode({"prompt": text_of(request.tokens)}))

    async def _embed(self, exchange: Exchange) -> None:
        request = await exchange.read(_embedding)
        model, _ = self._resolve(request.model)
        await self._run(exchange, self._embedded, (request, model))

    async def _embedded(self, exchange: Exchange, job: tuple[EmbeddingRequest, str]) -> None:
        request, model = job
        if self.first_token or self._resumed:
            await self._pace(exchange, self.first_token)
        answer_id = self._answer_id(exchange, "embd-")
        dimensions = self.settings.dimensions
        await exchange.reply(
            embeddings_body(request, answer_id, int(time.time()), model, dimensions)
        )

    async def _run(
        self,
        exchange: Exchange,
        work: Callable[[Exchange, T], Awaitable[None]],
        job: T,
        *,
        stream: bool = False,
    ) -> None:
        """Do the work once there is room for it, and count its outcome."""
        self.begun += 1
        if self.settings.exit_after is not None and self.begun > self.settings.exit_after:
            log.error("Exits, as told, at the beginning of request %d", self.begun)
            os._exit(1)
        try:
            if stream:  # vLLM sends the headers before the request has its turn
                await exchange.start(200, b"text/event-stream; charset=utf-8")
            if self.running < self.settings.max_num_seqs:
                self.running += 1
            else:
                await self._turn(exchange)
            try:
                await work(exchange, job)
            finally:
                self._leave()
        except OSError:  # from our own waiting, or from a send to a client that is gone (ASGI 2.4)
            self.aborted += 1
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        else:
            self.finished += 1
        finally:
            exchange.close()

    async def _turn(self, exchange: Exchange) -> None:
        """Wait until a request that ends passes on its place."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await exchange.wait(turn)
        except BaseException:
            if turn.done():
                self._leave()
            else:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self.running -= 1

    async def _pace(self, exchange: Exchange, seconds: float) -> None:
        """Wait for the time of the next token, and for the end of a stall."""
        await exchange.wait(seconds=seconds)
        while self._resumed:
            await exchange.wait(self._resumed)

    # Names

    def _resolve(self, name: str | None) -> tuple[str, Adapter | None]:
        """The model's name in the answer, and the adapter, if it names one."""
        names = self.settings.names
        if not name or name in names:
            return names[0], None
        if name in self._adapters.loaded:
            return name, self._adapters.loaded[name]
        known = f"Valid aliases: {', '.join(names)}."
        text = f"The model `{name}` does not exist. {known}"
        raise Refusal(404, text, "NotFoundError", "model")

    def _answer_id(self, exchange: Exchange, prefix: str) -> str:
        given = exchange.headers.get(b"x-request-id")
        return prefix + (given.decode("latin-1") if given else uuid.uuid4().hex)

    # Adapters

    async def _load_adapter(self, exchange: Exchange) -> None:
        await exchange.text(self._adapters.load(await exchange.read(_load)))

    async def _unload_adapter(self, exchange: Exchange) -> None:
        await exchange.text(self._adapters.unload(await exchange.read(_unload)))

    # What it reports about itself

    async def _health(self, exchange: Exchange) -> None:
        await exchange.reply(b"", 503 if self._sick else 200)

    async def _version(self, exchange: Exchange) -> None:
        await exchange.reply(encode({"version": VERSION}))

    async def _models(self, exchange: Exchange) -> None:
        settings = self.settings
        cards = [self._card(name, settings.model, None) for name in settings.names]
        adapters = self._adapters.loaded.values()
        cards += [self._card(each.name, each.path, settings.names[0]) for each in adapters]
        await exchange.reply(encode({"object": "list", "data": cards}))

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": self.settings.max_model_len if parent is None else None,
            "permission": [],
        }

    async def _metrics(self, exchange: Exchange) -> None:
        # Values that a core's steps change stall with it; the number of requests does not.
        gauges = self._gauges() | self._last_step
        labels = f'{{engine="0",model_name={json.dumps(self.settings.names[0])}}}'
        lines = [
            f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {float(value)}\n"
            for name, value in gauges.items()
        ]
        await exchange.text("".join(lines), b"text/plain; version=0.0.4; charset=utf-8")

    def _gauges(self) -> dict[str, float]:
        return {
            "num_requests_running": self.running,
            "num_requests_waiting": len(self._queue),
            "kv_cache_usage_perc": self.running / self.settings.max_num_seqs,
        }

    # Faults on demand

    async def _counts(self, exchange: Exchange) -> None:
        counts = {
            "running": self.running,
            "finished": self.finished,
            "aborted": self.aborted,
        }
        if self.settings.orders:
            counts["refused"] = self.refused
        await exchange.reply(encode(counts))

    async def _control(self, exchange: Exchange) -> None:
        wish = await exchange.read(_control, typed=False)
        if wish.exit is not None:
            log.error("Exits, as told, with code %d", wish.exit)
            os._exit(wish.exit)
        if wish.first_token is not None:
            self.first_token = wish.first_token
        if wish.token is not None:
            self.token = wish.token
        if wish.stall and self._resumed is None:
            usage = "kv_cache_usage_perc"
            self._last_step = {usage: self._gauges()[usage]}
            self._resumed = asyncio.get_running_loop().create_future()
        elif wish.stall is False and self._resumed is not None:
            self._last_step = {}
            self._resumed.set_result(None)
            self._resumed = None
        state = {
            "stall": self._resumed is not None,
            "first_token": self.first_token,
            "token": self.token,
        }
        await exchange.reply(encode(state))
