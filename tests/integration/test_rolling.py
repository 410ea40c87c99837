"""Changes and drains while a client asks all the time: not one request fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from nebula.events.intents import ModelLoadRequested
from nebula.events.vocabulary import ModelRolledBack, ModelUnschedulable
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
async def two(own_cluster: Cluster) -> Cluster:
    """Run two nodes, with folders of their own."""
    own_cluster.start_all()
    folder = str(own_cluster.folder / "there")
    own_cluster.start("node-2", "--name", "there", "--folder", folder)
    await own_cluster.ready()
    await own_cluster.until(lambda state: len(state.nodes) == 2, "two nodes")
    return own_cluster


@contextlib.asynccontextmanager
async def asked(cluster: Cluster, clients: int = 2) -> AsyncIterator[list[int]]:
    """Ask without a pause; give the status of every answer."""
    answers: list[int] = []
    done = asyncio.Event()

    async def ask() -> None:
        async with cluster.http() as http:
            while not done.is_set():
                body = chat("chat", "hello", max_tokens=3)
                answers.append((await http.post(CHAT, json=body)).status_code)

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield answers
    finally:
        done.set()
        await asyncio.gather(*tasks)
    assert answers
    assert set(answers) == {200}


async def rolled(cluster: Cluster, **options: object) -> None:
    """Wait until every replica of the model is as it was asked for now."""
    await cluster.until(
        lambda state: (
            (chat := state.models["chat"]).spec.options == options
            and chat.proven == chat.spec
            and len(chat.replicas) == chat.wanted
        ),
        f"all replicas run with {options}",
    )


async def test_options_change_without_notice(two: Cluster) -> None:
    await two.load("chat", replicas=2)
    first = {each.pid for each in two.engine_processes()}
    async with asked(two):
        await two.load("chat", replicas=2, options={"simulate-token": 0.001}, stands="")
        await rolled(two, **{"simulate-token": 0.001})
    assert first.isdisjoint(each.pid for each in two.engine_processes())


async def test_a_change_that_does_not_start_is_rolled_back_without_notice(two: Cluster) -> None:
    await two.load("chat")
    first = {each.pid for each in two.engine_processes()}
    async with asked(two):
        before = await two.last_seq()
        told = await two.nebula(
            *("load", "simulated", "--id", "chat", "--name", "chat", "--memory", "512MiB"),
            *("--option", "simulate-exit-at-start=3"),
        )
        back = await two.logged(ModelRolledBack, "chat", before)
    assert told.code == 1
    assert "rolled back to what last worked" in told.err
    assert "chat-1 was given up" in back.reason
    assert first == {each.pid for each in two.engine_processes()}


async def test_a_node_is_drained_without_notice(two: Cluster) -> None:
    await two.load("chat", replicas=2)
    async with asked(two):
        told = await two.nebula("drain", "here")
        assert (told.code, told.out) == (0, "here is empty: nothing runs there any more\n")
        state = await two.state()
        assert {each.node for each in state.replicas.values()} == {"there"}
        # And back: there is nowhere else to go, and it says so.
        assert (await two.nebula("drain", "there")).code == 1
        assert await two.logged(ModelUnschedulable, "chat")
        assert (await two.nebula("drain", "here", "--undo")).code == 0
        await two.until(
            lambda state: {each.node for each in state.replicas.values()} == {"here"},
            "all replicas are here",
        )


async def test_over_http_a_node_is_drained_as_by_command(two: Cluster) -> None:
    async with two.http() as http:
        assert (await http.post("/admin/nodes/there/drain")).status_code == 202
        assert (await two.state()).nodes["there"].draining
        assert (await http.delete("/admin/nodes/there/drain")).status_code == 202
        assert not (await two.state()).nodes["there"].draining
        before = await two.last_seq()
        nothing = await http.delete("/admin/nodes/there/drain")
        assert nothing.status_code == 404
        assert "is not draining: there is nothing to undo" in nothing.json()["error"]["message"]
        refused = await http.post("/admin/nodes/nowhere/drain")
        assert refused.status_code == 404
        assert "there are: here, there" in refused.json()["error"]["message"]
    assert (await two.nebula("drain", "nowhere")).code == 1
    told = await two.nebula("drain", "there", "--undo")
    assert (told.code, told.out) == (0, "there is not draining: there was nothing to do\n")
    assert await two.last_seq() == before
    assert not await two.records(ModelLoadRequested)
