"""One worker of a gateway: what its parent tells it, and what it tells its parent."""

import asyncio
import os
from collections.abc import Callable
from typing import Literal, TypeAlias

import click
import msgspec
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.http.server.handing_out import Handed

PATIENCE = 10.0
"""Seconds for a worker to get ready, before it takes its share of connections anyway."""

_LOOK = 0.05

Kind: TypeAlias = Literal["takes", "begun", "leaves", "failed"]
"""`takes`: it takes connections from now on. `begun`: it has read the log. `leaves`: it was told to
end, and still has requests. `failed`: it ends."""


class Told(Struct, frozen=True):
    """What a worker tells its parent, one line of JSON; `text`: why it ends."""

    kind: Kind
    text: str = ""


class Worker(Struct, frozen=True):
    """What a worker is told: its number from 1, of how many, and whose child it is.

    `channel`, `memory`: descriptors for `Handed`. `mark`: the name that the workers have in common.
    `at_once`: it takes connections before it is ready, for no other worker does.
    """

    number: int
    of: int
    parent: int
    channel: int
    memory: int
    mark: str
    at_once: bool


def line_of(worker: Worker) -> str:
    """Return a worker as an argument of its command line."""
    return msgspec.json.encode(worker).decode()


def _worker(_: click.Context, __: click.Parameter, text: str | None) -> Worker | None:
    if text is None:
        return None
    worker = msgspec.json.decode(text, type=Worker)
    if os.getppid() != worker.parent:  # it died before this process could ask to die with it
        raise click.BadParameter("its parent is gone")
    return worker


as_worker_option = click.option(
    "--as-worker", "worker", hidden=True, default=None, callback=_worker
)


class AtWork:
    """A worker while it runs."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._handed = Handed(worker.channel, worker.memory)
        self.left = self._handed.ended
        """Is to be called when one of its connections has ended."""

    async def take(self, actor: Gateway, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Take connections: at once, or when the gateway is ready, so that none is refused."""
        if not self.worker.at_once:
            await _ready(actor)
        self._handed.take(protocol)
        self._tell(Told("takes"))
        await actor.begun.wait()
        self._tell(Told("begun"))

    def leave(self) -> None:
        """Tell that it ends, and that the others should get what is new."""
        self._tell(Told("leaves"))

    def fail(self, why: str) -> None:
        """Tell why it ends."""
        self._tell(Told("failed", why))

    def close(self) -> None:
        """Take no more connections; why it ends can still be told."""
        self._handed.take_no_more()

    def _tell(self, what: Told) -> None:
        self._handed.tell(msgspec.json.encode(what) + b"\n")


async def _ready(actor: Gateway) -> None:
    """Wait until a gateway is ready, PATIENCE seconds at most."""
    try:
        async with asyncio.timeout(PATIENCE):
            await actor.begun.wait()
            while actor.log_watch.readiness().reasons:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        return
