"""Connections that are handed to workers: how they are shared, and what becomes of the rest."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import pytest

from nebula.http.server.handing_out import HANGS, Hand, Handed, HandingOut
from nebula.http.server.listening import listen

pytestmark = pytest.mark.anyio


class Echo(asyncio.Protocol):
    """Tells a client which worker has its connection."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._worker.transports.append(transport)
        transport.write(self._worker.name)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.handed.ended()


class Worker:
    """A worker in this process, with both ends of its channel."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.hand = Hand()
        self.handed = Handed(self.hand.theirs.detach(), self.hand.memory)
        self.transports: list[asyncio.Transport] = []

    def take(self) -> None:
        self.handed.take(lambda: Echo(self))

    def close(self) -> None:
        for each in self.transports:
            each.close()
        self.handed.close()
        self.hand.close()


class Scene:
    """A place to connect to, and workers by their names."""

    def __init__(self) -> None:
        [listening] = listen("127.0.0.1", 0, 1)
        self.address = listening.getsockname()
        self.handing = HandingOut([listening])
        self.workers: dict[bytes, Worker] = {}
        self._clients: list[asyncio.StreamWriter] = []

    def worker(self, name: bytes) -> Worker:
        made = self.workers[name] = Worker(name)
        made.take()
        self.handing.add(made.hand)
        return made

    async def connect(self) -> bytes:
        """Connect, and return the worker that answers."""
        return await (await self.knock()).readexactly(1)

    async def knock(self) -> asyncio.StreamReader:
        """Connect, and don't wait for a worker."""
        reader, writer = await asyncio.open_connection(*self.address)
        self._clients.append(writer)
        return reader

    async def close(self) -> None:
        self.handing.close()
        for client in self._clients:
            client.close()
            with contextlib.suppress(OSError):
                await client.wait_closed()
        for worker in self.workers.values():
            worker.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    yield made
    await made.close()


async def ended(*workers: Worker) -> None:
    """Wait until no connection of these is open."""
    while any(each.hand.open for each in workers):  # noqa: ASYNC110 - memory tells of no change
        await asyncio.sleep(0)


async def test_each_worker_gets_as_many(scene: Scene) -> None:
    for name in (b"a", b"b", b"c"):
        scene.worker(name)
    got = sorted([await scene.connect() for _ in range(12)])
    assert got == [b"a"] * 4 + [b"b"] * 4 + [b"c"] * 4


async def test_one_that_comes_later_is_filled_first(scene: Scene) -> None:
    scene.worker(b"a")
    assert [await scene.connect() for _ in range(3)] == [b"a"] * 3
    scene.worker(b"b")
    assert [await scene.connect() for _ in range(3)] == [b"b"] * 3


async def test_a_connection_that_has_ended_counts_no_more(scene: Scene) -> None:
    one = scene.worker(b"a")
    scene.worker(b"b")
    for _ in range(4):
        await scene.connect()
    assert one.hand.open == 2
    for each in one.transports:
        each.close()
    await ended(one)
    assert [await scene.connect() for _ in range(2)] == [b"a"] * 2


async def test_short_connections_go_to_all_in_turn(scene: Scene) -> None:
    workers = [scene.worker(name) for name in (b"a", b"b")]
    got = []
    for _ in range(4):
        got.append(await scene.connect())
        workers[got[-1] == b"b"].transports[-1].close()
        await ended(*workers)
    assert got == [b"a", b"b", b"a", b"b"]


async def test_without_a_worker_clients_wait_for_one(scene: Scene) -> None:
    waiting = await scene.knock()
    scene.worker(b"a")
    assert await waiting.readexactly(1) == b"a"


async def test_a_worker_that_has_died_gets_nothing_and_the_others_get_it(scene: Scene) -> None:
    scene.worker(b"a").handed.close()
    scene.worker(b"b")
    assert [await scene.connect() for _ in range(3)] == [b"b"] * 3
    assert scene.handing.hands == 1


async def test_a_worker_that_hangs_gets_connections_only_where_there_is_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = scene.worker(b"a")
    monkeypatch.setattr(type(hanging.hand), "hangs", property(lambda hand: hand is hanging.hand))
    assert await scene.connect() == b"a"
    scene.worker(b"b")
    assert [await scene.connect() for _ in range(3)] == [b"b"] * 3


async def test_a_worker_lives_as_long_as_its_loop_turns(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = scene.worker(b"a")
    assert not worker.hand.hangs
    later = time.monotonic_ns() + int(2 * HANGS * 1e9)
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    assert worker.hand.hangs
    while worker.hand.hangs:  # noqa: ASYNC110 - memory tells of no change
        await asyncio.sleep(0.01)


async def test_a_connection_that_no_worker_takes_now_waits_for_one(scene: Scene) -> None:
    stuck = scene.workers[b"a"] = Worker(b"a")  # it never looks at its channel
    with contextlib.suppress(BlockingIOError):
        while True:  # until nothing more fits
            stuck.hand.channel.send(b"x" * 4096)
    scene.handing.add(stuck.hand)
    waiting = await scene.knock()
    for _ in range(3):
        await asyncio.sleep(0)
    scene.worker(b"b")
    assert await waiting.readexactly(1) == b"b"


async def test_a_handed_connection_sends_small_answers_at_once(scene: Scene) -> None:
    worker = scene.worker(b"a")
    await scene.connect()
    taken = worker.transports[0].get_extra_info("socket")
    assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
