"""Nodes that fall silent: what serves their models, and what they do when they are back."""

import asyncio
import os
import re
import signal

import httpx
import psutil
import pytest

from nebula.actors.router.actor import Router
from nebula.actors.router.hearing import Silence
from nebula.actors.router.lifecycle import Observation, decide_lifecycle
from nebula.events.folding import fold
from nebula.events.memory import GIB
from nebula.events.record import Record
from nebula.events.state import EMPTY
from nebula.events.values import Device
from nebula.events.vocabulary import (
    EngineStopped,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeStopped,
    NodeSuspected,
)
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer
from tests.conftest import PATIENCE, Connect
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

NODES = {"here": "node", "there": "node-2"}


async def two_nodes(cluster: Cluster, *routers: str) -> str:
    """Start a cluster of two nodes, load a model, and give the node that has it."""
    cluster.start("nats")
    for router in routers:
        cluster.start(router, "--lost-after", "6")
    cluster.start("node")
    cluster.start("node-2", "--name", "there")
    cluster.start("gateway")
    await cluster.ready()
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    await cluster.load("chat")
    return (await cluster.replica("chat-0")).node


async def served_elsewhere(cluster: Cluster, lost: str) -> None:
    [other] = NODES.keys() - {lost}
    state = await cluster.until(
        lambda state: "chat-1" in state.replicas and state.replicas["chat-1"].serving,
        "another replica serves",
    )
    assert state.replicas["chat-1"].node == other
    assert state.nodes[lost].lost


async def ask(http: httpx.AsyncClient, text: str = "hello") -> str:
    return said(await http.post(CHAT, json=chat("chat", text, max_tokens=1)))


async def of_node(cluster: Cluster, node: str) -> list[Record]:
    return await cluster.records(NodeLost, NodeRegistered, identity=node)


async def test_a_node_that_is_taken_out_while_it_lives_comes_back_with_new_engines(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    before = await cluster.engine("chat-0")
    cut = await cluster.last_seq()
    await cluster.publish("nebula.events.node.here.NodeDeregistered", b"{}")
    registered = await cluster.logged(NodeRegistered, "here", cut)
    assert registered.devices
    await cluster.stands("chat")
    state = await cluster.until(
        lambda state: any(each.serving for each in state.replicas.values()), "a replica serves"
    )
    [replica] = [each for each in state.replicas.values() if each.serving]
    assert replica.engine is not None
    assert replica.engine.pid != before.pid
    assert not psutil.pid_exists(before.pid), "the log no longer told of that engine"
    async with cluster.http() as http:
        assert await ask(http) == "hello"


async def test_what_a_dead_machine_had_is_served_by_another(own_cluster: Cluster) -> None:
    cluster = own_cluster
    node = await two_nodes(cluster, "router", "router-2")
    engine = await cluster.engine("chat-0")
    cluster.kill(NODES[node])
    os.killpg(engine.pid, signal.SIGKILL)
    lost = await cluster.logged(NodeLost, node)
    assert lost.reason.startswith("not heard from for ")
    assert "; asked in the log " in lost.reason
    assert " s ago, without an answer; last sign of life: " in lost.reason
    assert "silent to other routers: router-" in lost.reason
    assert "1 of 2 nodes silent: no brake" in lost.reason
    await served_elsewhere(cluster, node)
    async with cluster.http() as http:
        assert await ask(http) == "hello"
    assert len(await cluster.records(NodeLost)) == 1, "two routers, one decision"

    cluster.again(NODES[node])
    state = await cluster.until(
        lambda state: not state.nodes[node].lost and "chat-0" not in state.replicas,
        "the node is back, without what it had",
    )
    assert state.models["chat"].assignments[0].replica == "chat-1", "it stays where it is"
    shown = await cluster.nebula("nodes")
    assert "lost" not in shown.out


async def test_what_a_node_had_that_was_stopped_is_placed_elsewhere_at_once(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    had = await two_nodes(cluster, "router")
    [other] = NODES.keys() - {had}
    assert cluster.stop(NODES[had]) == 0
    await cluster.logged(EngineStopped, "chat-0")
    await cluster.logged(NodeStopped, had)
    await cluster.stands("chat")
    assert (await cluster.replica("chat-1")).node == other
    assert not await cluster.records(NodeSuspected, NodeLost)
    told = await cluster.nebula("status")
    assert re.search(rf"^{had} +stopped ", told.out, re.MULTILINE)
    why = await cluster.nebula("why", "chat", "--all")
    assert f"chat-0 goes: {had} was stopped" in why.out
    told = await cluster.nebula("events", had)
    assert "stopped on request, with its engines" in told.out

    cluster.again(NODES[had])
    await cluster.until(lambda state: not state.nodes[had].stopped, "it has registered again")
    assert (await cluster.replica("chat-1")).node == other


async def test_a_node_that_leaves_its_engines_running_is_not_told_as_stopped(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.start("router")
    cluster.start("node", "--leave-engines")
    cluster.start("gateway")
    await cluster.ready()
    await cluster.load("chat")
    pid = (await cluster.engine("chat-0")).pid
    assert cluster.stop("node") == 0
    cluster.again("node")
    async with cluster.http() as http:
        assert await ask(http) == "hello"

    async def registered() -> bool:
        return len(await cluster.records(NodeRegistered)) == 2

    await cluster.poll(registered, "the next process has registered")
    assert not await cluster.records(NodeStopped, EngineStopped)
    assert (await cluster.engine("chat-0")).pid == pid


async def test_a_node_that_was_only_stopped_ends_its_engines_before_it_is_back(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    node = await two_nodes(cluster, "router")
    stale = psutil.Process((await cluster.engine("chat-0")).pid)
    stop = asyncio.Event()

    async def ask_on(http: httpx.AsyncClient) -> int:
        number = 0
        while not stop.is_set():
            number += 1
            assert await ask(http, f"w{number}") == f"w{number}"
            await asyncio.sleep(0.02)
        return number

    async with cluster.http() as http:
        asking = asyncio.create_task(ask_on(http))
        os.kill(cluster.pid(NODES[node]), signal.SIGSTOP)
        await served_elsewhere(cluster, node)
        assert stale.is_running(), "nobody is there to end it"
        assert " lost " in (await cluster.nebula("replicas")).out

        os.kill(cluster.pid(NODES[node]), signal.SIGCONT)
        await cluster.until(lambda state: not state.nodes[node].lost, "the node is back")
        stop.set()
        assert await asking > 10, "every request was answered"

    [stopped] = await cluster.records(EngineStopped, identity="chat-0")
    assert isinstance(stopped.content, EngineStopped)
    assert stopped.content.reason == "its node was lost, or taken out of the cluster"
    first, lost, back = await of_node(cluster, node)
    assert isinstance(lost.content, NodeLost)
    assert first.seq < lost.seq < stopped.seq < back.seq
    assert not stale.is_running()
    assert len(cluster.engine_processes()) == 1


async def test_a_node_that_registers_in_that_very_moment_is_not_lost_by_what_was_seen_before(
    nats_server: EmbeddedServer, connect: Connect
) -> None:
    router = Router(await connect("router"))
    log = await Log(await connect("node")).open(patience=PATIENCE)
    registered = NodeRegistered((Device(0, "cpu", "cpu", GIB),))
    first = await log.append("alpha", registered)
    asked = await log.append("alpha", NodeSuspected())
    seen = fold(EMPTY, await log.read())
    silence = Silence(31.0, suspicion=asked, asked=10.0)
    back = await log.append("alpha", registered)
    due = decide_lifecycle(seen, Observation({"alpha": silence}))
    assert [type(each.event) for each in due] == [NodeLost]
    await router._append_all(seen, due)
    assert [record.seq for record in await log.read()] == [first, asked, back]
    now = fold(EMPTY, await log.read())
    await router._append_all(now, decide_lifecycle(now, Observation({"alpha": silence})))
    again = (await log.read())[-1]
    assert (again.id, again.basis) == ("alpha", back)
    assert isinstance(again.content, NodeSuspected), "it is asked anew"


async def test_a_router_that_comes_back_itself_grants_every_node_its_time(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    await two_nodes(cluster, "router")
    os.kill(cluster.pid("router"), signal.SIGSTOP)
    await asyncio.sleep(8)  # longer than a node may be silent
    os.kill(cluster.pid("router"), signal.SIGCONT)
    async with cluster.http() as http:
        assert await ask(http) == "hello"
    await cluster.load("next", memory="64MiB")
    assert await cluster.records(NodeLost) == []


async def test_a_suspected_node_answers_in_the_log_and_is_not_lost(own_cluster: Cluster) -> None:
    cluster = own_cluster
    node = await two_nodes(cluster, "router")
    os.kill(cluster.pid("router"), signal.SIGSTOP)  # only the node can answer
    async with cluster.joined() as projection:
        asked = await projection.log.append(node, NodeSuspected("a test asks"))
    heard = await cluster.logged(NodeHeard, node, after=asked)
    assert heard.reason == "it reads this log"
    state = await cluster.state()
    assert state.nodes[node].suspected == 0
    [answer] = await cluster.records(NodeHeard, identity=node)
    assert answer.cause == asked
