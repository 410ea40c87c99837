"""A path between two NATS servers is cut while both reach the third: parts see different things."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from nebula.events.vocabulary import EngineStarted, ModelAssigned, NodeLost, NodeSuspected
from nebula.store import streams
from nebula.store.server import binary
from tests.integration.asking import CHAT, Heard, chat, prompt, said, stream, words
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

LOST_AFTER = 12
LONG = 2.5 * LOST_AFTER
"""Seconds for which the path stays cut."""

TOKENS = 240
"""Tokens of a stream that goes on for twelve seconds."""


class Relay:
    """A way to a port that can be cut: then nothing gets through, not even a new connection."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._open = True
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(
            *(writer.wait_closed() for writer in self._writers), return_exceptions=True
        )

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._open = False
        for pipe in self._pipes:
            pipe.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if not self._open:
            writer.close()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers.append(inner_writer)
        for source, sink in ((reader, inner_writer), (inner_reader, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            finally:
                sink.close()


class Servers:
    """Three NATS servers, of which the first two reach each other through relays alone."""

    def __init__(self, cluster: Cluster, relays: tuple[Relay, Relay], routes: list[int]) -> None:
        self.cluster = cluster
        self.relays = relays
        self.routes = routes
        self.ports = [free_port() for _ in range(3)]
        self.monitors = [free_port() for _ in range(3)]

    def known(self, name: str, *numbers: int) -> str:
        """Return a URL of so many of the three servers, first of them the server in use.

        It stands in a file that is read again: `all_known` adds the others.
        """
        file = self.cluster.folder / f"{name}.url"
        file.write_text(",".join(self._url(number) for number in numbers))
        return f"file:{file}"

    def all_known(self, *names: str) -> None:
        """Let actors that have connected know of all three servers."""
        for name in names:
            self.known(name, 1, 2, 3)

    def _url(self, number: int) -> str:
        return f"nats://127.0.0.1:{self.ports[number - 1]}"

    def start(self) -> None:
        """Start all three. What a server tells of itself to the others is the relay before it."""
        for number, port in enumerate(self.ports):
            folder = self.cluster.folder / f"n{number + 1}"
            folder.mkdir()
            config = folder / "nats.conf"
            config.write_text(self._configuration(number, port, folder))
            self.cluster.program(f"nats-{number + 1}", binary(), "-c", str(config))

    def _configuration(self, number: int, port: int, folder: Path) -> str:
        seen = [self.relays[0].port, self.relays[1].port, self.routes[2]][number]
        return (
            f'server_name: n{number + 1}\nlisten: "127.0.0.1:{port}"\n'
            f'http: "127.0.0.1:{self.monitors[number]}"\nmax_payload: 8MB\n'
            f"jetstream {{ store_dir: {json.dumps(str(folder))}, max_memory_store: 1GB }}\n"
            f'cluster {{ name: test, listen: "127.0.0.1:{self.routes[number]}"\n'
            f'  advertise: "127.0.0.1:{seen}", no_advertise: true, pool_size: -1\n'
            f'  routes: ["nats://127.0.0.1:{self.routes[2]}"] }}\n'
        )

    async def asked(self, path: str) -> dict[str, Any]:
        """Return what the third server says of itself."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
            try:
                told: dict[str, Any] = (
                    await http.get(f"http://127.0.0.1:{self.monitors[2]}{path}")
                ).json()
            except httpx.HTTPError:
                return {}
        return told

    async def third_leads(self) -> None:
        """Wait until the third server leads; another one that does is started anew."""

        async def leads() -> bool:
            meta = (await self.asked("/jsz")).get("meta_cluster", {})
            leader = meta.get("leader", "")
            if leader in ("n1", "n2") and meta.get("cluster_size") == 3:
                name = f"nats-{leader[1]}"
                self.cluster.kill(name)
                self.cluster.again(name)
                await asyncio.sleep(2)
            return bool(leader == "n3")

        await self.cluster.poll(leads, "the third server leads", 60)

    async def log_on_third(self) -> None:
        """Have the log's leader on the third server: both others reach it then."""
        client = await nats.connect(f"nats://127.0.0.1:{self.ports[2]}")
        wish = json.dumps({"placement": {"preferred": "n3"}}).encode()

        async def leads() -> bool:
            info = await client.jetstream().stream_info(streams.EVENTS)
            if info.cluster is not None and info.cluster.leader == "n3":
                return True
            await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{streams.EVENTS}", wish)
            await asyncio.sleep(0.5)
            return False

        await self.cluster.poll(leads, "the third server leads the log", 60)
        await client.close()

    def cut(self) -> None:
        """Cut the path between the first and the second server."""
        for relay in self.relays:
            relay.cut()

    async def apart(self) -> None:
        """Wait until the first two servers know nothing of each other."""
        await self.routed(1)

    async def routed(self, many: int) -> None:
        """Wait until the first server has so many routes."""

        async def so() -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
                told = (await http.get(f"http://127.0.0.1:{self.monitors[0]}/routez")).json()
            return len({each["remote_id"] for each in told["routes"]}) == many

        await self.cluster.poll(so, f"the first server has {many} routes")


@pytest.fixture
async def servers(own_cluster: Cluster) -> AsyncIterator[Servers]:
    routes = [free_port() for _ in range(3)]
    async with Relay(routes[0]) as first, Relay(routes[1]) as second:
        yield Servers(own_cluster, (first, second), routes)


async def test_routers_that_hear_different_nodes_lose_none_but_the_dead(servers: Servers) -> None:
    cluster = servers.cluster
    servers.start()
    await servers.third_leads()
    await servers.routed(2)
    common = ("--stream-replicas", "3")
    for number, name in ((1, "here"), (2, "there")):
        cluster.nats_url = f"nats://127.0.0.1:{servers.ports[number - 1]}"
        cluster.start(f"router-{number}", *common, "--lost-after", str(LOST_AFTER))
        folder = str(cluster.folder / name)
        cluster.start(f"node-{number}", *common, "--name", name, "--folder", folder)
    cluster.nats_url = f"nats://127.0.0.1:{servers.ports[2]}"
    cluster.start("gateway", *common)
    await cluster.ready()
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there", 60)
    await cluster.load("chat", replicas=2)
    await servers.log_on_third()
    before = await cluster.last_seq()

    servers.cut()
    await servers.apart()
    await asyncio.sleep(LONG)
    state = await cluster.state()
    assert await cluster.records(NodeLost) == []
    assert not any(node.lost for node in state.nodes.values())
    moved = [
        record
        for record in await cluster.records(ModelAssigned, EngineStarted)
        if record.seq > before
    ]
    assert moved == []
    asked = await cluster.records(NodeSuspected)
    assert len(asked) <= 2 * (1 + LONG / LOST_AFTER)

    dead = (await cluster.replica("chat-0")).node
    name = {"here": "node-1", "there": "node-2"}[dead]
    engine = await cluster.engine("chat-0")
    cluster.kill(name)
    os.killpg(engine.pid, signal.SIGKILL)
    await cluster.until(
        lambda state: state.nodes[dead].lost, "the dead node is lost", 8 * LOST_AFTER + 10
    )
    assert [each.id for each in await cluster.records(NodeLost)] == [dead]


@pytest.mark.parametrize("who", ["those who ask", "those who answer"])
async def test_an_actor_that_does_not_hear_what_others_hear_moves_to_another_server(
    servers: Servers, who: str
) -> None:
    cluster = servers.cluster
    servers.start()
    await servers.third_leads()
    await servers.routed(2)
    common = ("--stream-replicas", "3")
    cluster.nats_url = servers.known("asking", 1)
    cluster.start("router", *common)
    cluster.start("gateway", *common)
    cluster.nats_url = servers.known("answering", 2)
    cluster.start("node", *common)
    cluster.nats_url = f"nats://127.0.0.1:{servers.ports[2]}"
    await cluster.ready()
    await cluster.load("chat", options={"simulate-token": 0.05, "simulate-tokens": TOKENS})
    await servers.log_on_third()
    heard = Heard()
    async with cluster.http() as http:
        streaming = asyncio.create_task(stream(http, chat("chat", prompt(1)), heard))
        await cluster.poll(partial(begun, heard), "the stream has begun")

        servers.all_known("asking" if who == "those who ask" else "answering")
        servers.cut()
        await servers.apart()
        for _ in range(3):
            assert said(await http.post(CHAT, json=chat("chat", max_tokens=2)))
        await streaming
    assert heard.whole
    assert heard.error is None
    assert heard.text == words(1, TOKENS)
    for name in ("gateway", "router") if who == "those who ask" else ("node",):
        await cluster.poll(partial(moved, cluster, name), f"{name} has moved")
    assert await cluster.records(NodeLost) == []


async def begun(heard: Heard) -> bool:
    return len(heard.chunks) > 3


async def moved(cluster: Cluster, name: str) -> bool:
    return "has moved to NATS at" in cluster.output(name)
