"""What all paths of a simulated engine share: names, the queue, pacing, and ordered faults."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from nebula.engines.simulated_adapters import Adapter, Adapters
from nebula.engines.simulated_http import Exchange, Refusal
from nebula.engines.simulated_metrics import Metrics
from nebula.engines.simulated_orders import Orders, orders
from nebula.engines.simulated_settings import Settings, Task

T = TypeVar("T")

log = logging.getLogger("simulated")


class Core:
    """The engine behind its paths; vLLM's apps have it as ``state.engine_client``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.running = self.finished = self.aborted = self.begun = self.refused = 0
        self.first_token, self.token = settings.first_token, settings.token
        self.crowding = settings.crowding
        self.metrics = Metrics(settings.max_model_len)
        self.adapters = Adapters(settings.names, settings.max_lora_rank, settings.max_loras)
        self.sick = False
        self.stalled = False
        self._queue: deque[asyncio.Future[None]] = deque()
        self._resumed: asyncio.Future[None] | None = None  # to come, while the engine is stalled
        self._last_step: dict[str, float] = {}  # what a stalled core's last step left

    async def get_supported_tasks(self) -> tuple[Task, ...]:
        """What the model can do, as vLLM's engine client says it."""
        return self.settings.supported_tasks

    # Names

    def resolve(self, name: str | None, *, aliases: bool = True) -> tuple[str, Adapter | None]:
        """Return the model's name in the answer, and the adapter, if it names one. Raise Refusal.

        ``aliases``: whether the refusal names those that exist; vLLM's pooling paths do not.
        """
        names = self.settings.names
        if not name or name in names:
            return names[0], None
        if name in self.adapters.loaded:
            return name, self.adapters.loaded[name]
        text = f"The model `{name}` does not exist."
        if not aliases:
            raise Refusal(404, text, "NotFoundError")
        known = f"Valid aliases: {', '.join(names)}."
        raise Refusal(404, f"{text} {known}", "NotFoundError", "model")

    def answer_id(self, exchange: Exchange, prefix: str) -> str:
        """Return the id of an answer: the caller's own, where it gave one."""
        given = exchange.headers.get(b"x-request-id")
        return prefix + (given.decode("latin-1") if given else uuid.uuid4().hex)

    # Turns

    async def run(
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
        came = exchange.begun = time.monotonic()
        try:
            if stream:  # vLLM sends the headers before the request has its turn
                await exchange.start(200, b"text/event-stream; charset=utf-8")
            if self.running < self.settings.max_num_seqs:
                self.running += 1
            else:
                await self._turn(exchange)
                exchange.begun = time.monotonic()
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
            self.metrics.finished(exchange.begun - came, time.monotonic() - came)
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

    # Time

    @property
    def next_token(self) -> float:
        """The time from one token to the next beside all that runs now, as steps are shared."""
        return self.token + self.crowding * (self.running - 1)

    async def pace(self, exchange: Exchange, seconds: float) -> None:
        """Wait for the time of the next token, and for the end of a stall."""
        await exchange.wait(seconds=seconds)
        while self._resumed:
            await exchange.wait(self._resumed)

    async def prefill(self, exchange: Exchange) -> None:
        """Wait for the time of an answer that has no tokens."""
        if self.first_token or self._resumed:
            await self.pace(exchange, self.first_token)

    def stall(self) -> None:
        """Stand still from now on."""
        if self._resumed is None:
            usage = "kv_cache_usage_perc"
            self._last_step = {usage: self._gauges()[usage]}
            self._resumed = asyncio.get_running_loop().create_future()
            self.stalled = True

    def resume(self) -> None:
        """Go on."""
        if self._resumed is not None:
            self._last_step = {}
            self._resumed.set_result(None)
            self._resumed = None
            self.stalled = False

    def gauges(self) -> dict[str, float]:
        """Return vLLM's gauges; those that a core's steps change stall with it."""
        return self._gauges() | self._last_step

    def _gauges(self) -> dict[str, float]:
        return {
            "num_requests_running": self.running,
            "num_requests_waiting": len(self._queue),
            "kv_cache_usage_perc": self.running / self.settings.max_num_seqs,
        }

    # Faults

    def obey(self, words: Iterable[str]) -> Orders | None:
        """Do what a prompt orders, and return what is left to do. Raise Refusal."""
        if not self.settings.orders:
            return None
        told = orders(words)
        if told.exit is not None:
            self.exit(told.exit, "as a prompt orders")
        self.sick = self.sick or told.sick
        if told.status is not None:
            self.refused += 1
            raise Refusal(told.status, "The prompt ordered it.", retry_after=told.retry_after)
        return told

    def exit(self, code: int, why: str) -> None:
        """End the process at once."""
        log.error("Exits, %s, with code %d", why, code)
        os._exit(code)
