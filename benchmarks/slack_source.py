"""Keeps so many requests in flight that no client waits for, while it is told to.

`python -m benchmarks.slack_source URL COUNT BODY` is a gateway of its own beside the cluster's. It
reads lines: `slack` and `ordinary` begin, as slack or as requests of the lowest priority, `none`
ends what is in flight. It answers each line with how many were answered since the line before.
"""

import asyncio
import sys
import uuid

from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.delivery import new_id
from nebula.actors.gateway.not_served import NotServed
from nebula.events.inference import Request
from nebula.events.state import NameBinding
from nebula.store.connection import Connection

MODEL = "bench"
_LAST_OF_ALL = 999_999_999
_PATIENCE = 100_000.0


class Source:
    """Asks for the same again and again, `count` times side by side."""

    def __init__(self, gateway: Gateway, count: int, body: bytes) -> None:
        self.answered = 0
        self._gateway = gateway
        self._count = count
        path = "/v1/chat/completions"
        self._request = Request("", gateway.id, MODEL, path, body, patience=_PATIENCE)
        self._tasks: list[asyncio.Task[None]] = []

    async def turn_to(self, kind: str) -> None:
        """End what is in flight, and begin with what the line says."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        slack = kind == "slack"
        request = replace(self._request, slack=slack, priority=0 if slack else _LAST_OF_ALL)
        count = 0 if kind == "none" else self._count
        self._tasks = [asyncio.create_task(self._ask(request)) for _ in range(count)]

    async def _ask(self, request: Request) -> None:
        while True:
            try:
                delivery = self._gateway.ask(replace(request, id=new_id()), NameBinding(MODEL))
            except NotServed:
                await asyncio.sleep(0.5)
                continue
            try:
                while not (piece := await delivery.next()).end:
                    pass
            finally:
                self._gateway.leave(delivery)
            self.answered += not piece.failure


async def main(url: str, count: int, body: bytes) -> None:
    """Read lines until there are no more."""
    gateway = Gateway(Connection(url, "slack"), f"gw-{uuid.uuid4().hex[:8]}")
    running = asyncio.create_task(gateway.run())
    while MODEL not in gateway.projection.state.models:
        await gateway.projection.changed()
    while not gateway.able:  # noqa: ASYNC110 - it says nothing when it is
        await asyncio.sleep(0.1)
    source = Source(gateway, count, body)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await source.turn_to(line.strip())
        print(source.answered, flush=True)
        source.answered = 0
    await source.turn_to("none")
    gateway.stop()
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()))
