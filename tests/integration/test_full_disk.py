"""The disk of the log is full, or its server is at a limit: it is told, lived with, and healed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nebula.events.intents import ModelLoadRequested
from nebula.events.vocabulary import EngineFailed
from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.refusals import NotAppended
from nebula.store.server import configuration
from tests.integration.asking import CHAT, Heard, chat, error, listen, said
from tests.integration.cluster import Cluster
from tests.integration.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.anyio

TOLD_WITHIN = 10.0
HEALED_WITHIN = 60.0
ALIAS = "/admin/aliases/other"
TARGETS = {"targets": [{"model": "chat"}]}


@pytest.fixture
def disk(own_cluster: Cluster) -> Iterator[SmallDisk]:
    """The disk of `own_cluster`'s home, of 48 MiB."""
    with small_disk(own_cluster.folder / "home") as disk:
        own_cluster.within = disk.within
        try:
            yield disk
        finally:
            own_cluster.close()


async def readiness(http: httpx.AsyncClient) -> tuple[int, str]:
    """Ask /ready: the status, and the reasons or warnings; 0 without a listener."""
    try:
        answer = await http.get("/ready")
    except httpx.ConnectError:
        return 0, ""
    if answer.status_code == 200:
        return 200, "; ".join(answer.json()["warnings"])
    return 503, str(error(answer, 503)["message"])


async def stream(http: httpx.AsyncClient) -> Heard:
    """Hear a long answer to its end."""
    async with http.stream("POST", CHAT, json=chat("chat", stream=True)) as answer:
        return await listen(answer)


async def told(cluster: Cluster, http: httpx.AsyncClient, words: str, within: float) -> str:
    """Wait until /ready is 503 for a reason with these words."""

    async def so() -> bool:
        status, reason = await readiness(http)
        return status == 503 and words in reason

    await cluster.poll(so, f"/ready says {words!r}", within)
    return (await readiness(http))[1]


async def refused_changes(cluster: Cluster, http: httpx.AsyncClient, words: str) -> None:
    """Every way of asking for a change ends with the reason."""
    for answer in (
        await http.put(ALIAS, json=TARGETS),
        await http.patch("/admin/models/chat", json={"replicas": 2}),
        await http.delete("/admin/models/chat"),
    ):
        assert words in error(answer, 503)["message"]
        assert "nothing was recorded" in error(answer, 503)["message"]
        assert answer.headers["retry-after"].isdigit()
    command = await cluster.nebula("load", "simulated", "--id", "more", "--memory", "64MiB")
    assert command.code == 1
    assert words in command.err


async def test_a_full_disk_is_told_lived_with_and_healed_without_a_loss(
    own_cluster: Cluster, disk: SmallDisk
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", options={"simulate-token": 0.05, "simulate-tokens": 800})
    engine = await cluster.engine("chat-0")
    before = await cluster.records()
    async with cluster.http() as http:
        disk.fill(leave=2 * 1024 * 1024)

        async def warned() -> bool:
            return "nearly full" in (await readiness(http))[1]

        await cluster.poll(warned, "/ready warns before the disk is full", TOLD_WITHIN)
        assert (await http.get("/ready")).status_code == 200
        assert "nearly full" in (await cluster.nebula("status")).out
        streaming = asyncio.create_task(stream(http))

        disk.fill()
        # Written by hand while it is full, so that nats-server itself meets the error.
        for _ in range(2):
            await cluster.publish("nebula.events.model.raw.X", bytes(5000))
        await told(cluster, http, "is full", TOLD_WITHIN)
        await refused_changes(cluster, http, "is full")
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/admin/events?after=0")).status_code == 200, "history is read"
        assert (await http.post(CHAT, json=chat("chat", max_tokens=1))).status_code == 200
        mount = str(cluster.folder / "home")
        for command in (("status",), ("why", "chat"), ("why", "replica", "chat-0")):
            out = (await cluster.nebula(*command)).out
            assert "nothing can be changed now" in out
            assert mount in out.replace("\n", "")

        disk.make_room()

        async def taken() -> bool:
            return (await http.put(ALIAS, json=TARGETS)).status_code == 202

        await cluster.poll(taken, "changes are taken again", HEALED_WITHIN)
        await cluster.ready()
        heard = await streaming
        assert heard.whole
        assert len(heard.text.split()) == 800, "the stream went on"
        await cluster.load("more")
    after = await cluster.records()
    assert after[: len(before)] == before
    assert await cluster.engine("chat-0") == engine, "no engine is restarted needlessly"
    lines = [line for line in cluster.output("up").splitlines() if "nebula.store" in line]
    assert len(lines) < 15, lines


async def test_an_engine_that_dies_on_a_full_disk_is_started_again_and_told_of_later(
    own_cluster: Cluster, disk: SmallDisk
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    first = await cluster.engine("chat-0")
    seq = await cluster.last_seq()
    async with cluster.http() as http:
        disk.fill()
        for _ in range(2):
            await cluster.publish("nebula.events.model.raw.X", bytes(5000))
        await told(cluster, http, "is full", TOLD_WITHIN)
        os.kill(first.pid, signal.SIGKILL)

        async def another_runs() -> bool:
            return {each.pid for each in cluster.engine_processes()} - {first.pid} != set()

        await cluster.poll(another_runs, "the engine is started again while the disk is full", 40)
        disk.make_room()
        failed = await cluster.logged(EngineFailed, "chat-0", after=seq)
        assert "killed by signal 9" in failed.reason
        await cluster.stands("chat", patience=HEALED_WITHIN)
        assert (await cluster.engine("chat-0")).pid != first.pid
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_full_at_the_start_is_one_clear_sentence_and_room_heals_it(
    own_cluster: Cluster, disk: SmallDisk
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    assert cluster.stop("up") == 0
    disk.fill()
    cluster.up()

    async def says() -> bool:
        full = r"is full: [0-9.]+ (B|KiB) of 48\.0 MiB are free"
        return re.search(full, cluster.output("up")) is not None

    await cluster.poll(says, "it says that the disk is full", 40)
    async with cluster.http() as http:
        await told(cluster, http, "is full", 20)
        disk.make_room()
        await cluster.ready()
        await cluster.stands("chat")
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_a_limit_of_the_store_is_told_with_its_name(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--log-limit", "1MiB", "--no-node")
    await cluster.ready()
    async with cluster.http() as http:
        await fill_log(cluster, 100)

        async def reached() -> bool:
            return "max_file_store" in (await readiness(http))[1]

        await cluster.poll(reached, "/ready names the limit", TOLD_WITHIN)
        await told(cluster, http, "has reached JetStream's limit, max_file_store", TOLD_WITHIN)
        answer = await http.put(ALIAS, json=TARGETS)
        assert "max_file_store" in error(answer, 503)["message"]
        status = await cluster.nebula("status")
        assert "max_file_store" in status.out
    assert cluster.stop("up") == 0
    cluster.up("--log-limit", "8MiB", "--no-node")
    await cluster.ready()


async def fill_log(cluster: Cluster, most: int) -> int:
    """Append events of 8 KiB until none is taken, or `most`; return how many were."""
    connection = await Connection(cluster.url(), "filling").open(patience=10)
    log = Log(connection)
    try:
        for number in range(most):
            event = ModelLoadRequested("simulated", env={"A": "x" * 8192})
            try:
                await log.append(f"m{number}", event, patience=5)
            except NotAppended:
                return number
        return most
    finally:
        await connection.close()


async def test_on_a_nats_of_ones_own_the_same_is_concluded_from_what_fails(
    own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = own_cluster

    def limited(port: int, store: Path) -> str:
        return configuration(port, store, 1024 * 1024)

    monkeypatch.setattr("tests.integration.cluster.configuration", limited)
    for actor in ("nats", "router", "gateway"):
        cluster.start(actor)
    await cluster.ready()
    assert await fill_log(cluster, 300) < 300
    async with cluster.http() as http:
        large = {"id": "large", "source": "simulated", "env": {"A": "x" * 9000}}
        answer = await http.post("/admin/models", json=large)
        first: dict[str, Any] = error(answer, 503)
        assert "max_file_store" in first["message"]
        assert "nothing was recorded" in first["message"]
        again = await http.post("/admin/models", json=large)
        assert "max_file_store" in error(again, 503)["message"]
        assert "max_file_store" in (await readiness(http))[1]


async def test_without_a_router_a_gateway_is_not_ready(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.start("gateway")
    async with cluster.http() as http:

        async def listens() -> bool:
            return "no router has been heard yet" in (await readiness(http))[1]

        await cluster.poll(listens, "/ready says that there is no router")
        assert (await http.get("/health")).status_code == 200
        cluster.start("router")
        await cluster.ready()
        cluster.kill("router")
        await told(cluster, http, "no router has been heard for", TOLD_WITHIN)
        cluster.again("router")
        await cluster.ready()
