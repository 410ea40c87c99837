"""A gateway with few open files: strangers take what is free, and those it serves go on."""

import asyncio
import contextlib
import shlex
import socket
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.asking import Heard, chat, error, prompt, stream, words
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

FEW = 100
TAKEN = 45
"""Connections that a gateway takes which may have so few files open."""


async def start(cluster: Cluster, limits: str) -> int:
    """Start a cluster with a slow model and a gateway with such limits; return its port."""
    cluster.start_all()
    await cluster.ready()
    options = {"simulate-tokens": 100, "simulate-token": 0.05}
    await cluster.load("chat", memory="64MiB", options=options)
    port = free_port()
    line = [sys.executable, "-m", "nebula.cli.main", "gateway", "--nats", cluster.nats_url]
    line += ["--port", str(port)]
    cluster.program("gateway-2", "sh", "-c", f"{limits}; exec {shlex.join(line)}")
    await cluster.ready(port)
    return port


@contextlib.contextmanager
def strangers(port: int, count: int) -> Iterator[None]:
    """Open connections that say nothing."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                opened.append(socket.create_connection(("127.0.0.1", port), 2))
        yield
    finally:
        for each in opened:
            each.close()


async def test_strangers_take_what_is_free_and_no_more(own_cluster: Cluster) -> None:
    cluster = own_cluster
    port = await start(cluster, f"ulimit -n {FEW}")
    assert f"for {TAKEN} connections at most: {FEW} files" in cluster.output("gateway-2")
    async with cluster.http(port) as http:
        heard = Heard()
        body = chat("chat", prompt(1), max_tokens=60)
        hearing = asyncio.create_task(stream(http, body, heard))

        async def runs() -> bool:
            return bool(heard.chunks)

        await cluster.poll(runs, "the stream runs")
        with strangers(port, 200):
            cluster.kill("nats")
            cluster.again("nats")
            async with cluster.http(port) as late:

                async def is_told() -> bool:
                    with contextlib.suppress(httpx.TransportError):
                        answer = await late.get("/ready")
                        message: str = error(answer, 503)["message"]
                        return message.startswith(f"{TAKEN} connections")
                    return False

                await cluster.poll(is_told, "one more hears why not")
            assert (await hearing).text == words(1, 60)
    log = cluster.output("gateway-2")
    assert log.count("connections are open, as many as the limit of open files") == 1
    assert len(log.splitlines()) < 30
    await cluster.ready(port)


async def test_the_soft_limit_is_raised_to_the_hard_one(own_cluster: Cluster) -> None:
    cluster = own_cluster
    await start(cluster, "ulimit -Sn 50; ulimit -Hn 400")
    assert "for 270 connections at most: 400 files" in cluster.output("gateway-2")
