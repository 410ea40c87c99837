"""kill -9 of nodes, engines and everything: what goes on, what is told, and what comes back."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from nebula.events.state import State
from nebula.events.vocabulary import (
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    NodeRegistered,
)
from tests.integration.asking import CHAT, chat, events, said, text_of
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

ADOPTED = "its process ended (exit code unknown: it was started before this node process)"
SLOW = {"simulate-token": 0.1, "simulate-tokens": 30}


async def stream(cluster: Cluster, model: str, text: str) -> list[dict[str, Any]]:
    """Return all events of one streamed chat."""
    body = chat(model, text, stream=True)
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        return [event async for event in events(answer)]


async def test_an_engine_s_log_is_turned_over_while_it_runs_and_followed_on(
    own_cluster: Cluster,
) -> None:
    own_cluster.up("--engine-log-limit", "1MiB", "--restart-limit", "1")
    await own_cluster.ready()
    await own_cluster.load("base")
    engine = await own_cluster.engine("base-0")
    path = Path(engine.log_file)

    def say(text: bytes) -> None:
        with path.open("ab") as output:  # as the engine itself writes
            output.write(text)

    async def turned_over() -> bool:
        return path.stat().st_size < 1024**2  # noqa: ASYNC240

    line = [sys.executable, "-m", "nebula.cli.main", "logs", "base-0", "-f", "-n", "1"]
    process = await asyncio.create_subprocess_exec(
        *line, "--nats", own_cluster.nats_url, stdout=asyncio.subprocess.PIPE, limit=8 * 1024**2
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            await process.stdout.readline()
            say(b"y" * 3_000_000 + b"\n")
            # How much of it is followed depends on when it is turned over.
            assert set(await process.stdout.readline()) == set(b"y\n")
            await own_cluster.poll(turned_over, "it is turned over", 40)
            say(b"after\n")
            assert await process.stdout.readline() == b"after\n"
    finally:
        process.terminate()
        await process.wait()
    say(b"ValueError: the end\n")
    os.kill(engine.pid, signal.SIGKILL)
    failed = await own_cluster.logged(EngineFailed, "base-0")
    assert failed.reason.startswith("killed by signal 9 (SIGKILL)")
    assert "ValueError" not in failed.reason  # nothing that it wrote can be about that
    assert failed.log_tail[-2:] == ("after", "ValueError: the end")
    assert max(map(len, failed.log_tail)) <= 500
    sizes = [each.stat().st_size for each in path.parent.glob("base-0.log*")]
    assert len(sizes) == 2
    assert sum(sizes) <= 2 * 1024**2


async def streams_begin(cluster: Cluster, model: str, number: int) -> list[asyncio.Task[Any]]:
    """Start streamed chats and wait until the engine works on all of them."""
    tasks = [asyncio.create_task(stream(cluster, model, f"word{n}")) for n in range(number)]

    async def all_run() -> bool:
        return (await cluster.engine_says(f"{model}-0"))["running"] == number

    await cluster.poll(all_run, f"{number} streams run")
    return tasks


async def test_streams_outlive_kill_9_of_the_node_and_the_next_one_adopts_the_engine(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", options=SLOW)
    before = await cluster.engine("chat-0")
    node = cluster.pid("node")

    streams = await streams_begin(cluster, "chat", 5)
    cluster.kill("node")
    heard = await asyncio.gather(*streams)
    assert [text_of(chunks) for chunks in heard] == [" ".join([f"word{n}"] * 30) for n in range(5)]

    log = cluster.folder / "home" / "logs" / "node.log"

    async def adopted() -> bool:
        return "adopted chat-0" in log.read_text()

    await cluster.poll(adopted, "the engine is adopted")
    assert cluster.pid("node") != node
    assert len(await cluster.records(NodeRegistered)) == 2
    assert await cluster.engine("chat-0") == before
    assert [type(r.content) for r in await cluster.records(identity="chat-0")] == [
        EngineStarted,
        EngineReady,
    ]
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"

    os.kill(before.pid, signal.SIGKILL)
    failed = await cluster.logged(EngineFailed, "chat-0")
    assert failed.exit_code is None
    assert failed.reason == ADOPTED
    await cluster.stands("chat")


async def test_an_adopted_engine_s_failure_quotes_no_engine_and_no_request_before_it(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    first = await cluster.engine("chat-0")
    path = Path(first.log_file)

    def say(text: str) -> None:
        with path.open("a") as output:  # as the engine itself writes
            output.write(text)

    say("RuntimeError: of the engine before\n")
    os.kill(first.pid, signal.SIGKILL)

    def next_one(state: State) -> bool:
        engine = state.replicas["chat-0"].engine
        ready = state.replicas["chat-0"].phase == "ready"
        return ready and engine is not None and engine.pid != first.pid

    state = await cluster.until(next_one, "its successor is ready")
    second = state.replicas["chat-0"].engine
    assert second is not None
    say("ValueError: a client's schema is none\n")

    seq = state.seq
    cluster.kill("node")
    node_log = cluster.folder / "home" / "logs" / "node.log"

    async def adopted() -> bool:
        return "adopted chat-0" in node_log.read_text()

    await cluster.poll(adopted, "the engine is adopted")
    os.kill(second.pid, signal.SIGKILL)
    failed = await cluster.logged(EngineFailed, "chat-0", after=seq)
    assert failed.reason == ADOPTED
    assert "ValueError: a client's schema is none" in failed.log_tail
    assert "RuntimeError: of the engine before" not in failed.log_tail


async def test_what_was_unloaded_or_has_died_without_a_node_is_put_right_by_the_next_one(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    for identity in ("kept", "unloaded", "dead"):
        await cluster.load(identity, stands="")
    for identity in ("kept", "unloaded", "dead"):
        await cluster.stands(identity)
    kept = await cluster.engine("kept-0")
    dead = await cluster.engine("dead-0")

    cluster.kill("node")
    os.kill(dead.pid, signal.SIGKILL)
    async with cluster.http() as http:
        assert (await http.delete("/admin/models/unloaded")).status_code == 202
        assert said(await http.post(CHAT, json=chat("kept", max_tokens=1))) == "hello"
        assert len(cluster.engine_processes()) == 2, "nobody is there to end the unloaded one"

        cluster.again("node")
        await cluster.until(lambda state: "unloaded" not in state.models, "it is unloaded")
        await cluster.until(
            lambda state: (
                (engine := state.replicas["dead-0"].engine) is not None and engine.pid != dead.pid
            ),
            "the dead engine is replaced",
        )
        await cluster.stands("dead")
        assert said(await http.post(CHAT, json=chat("dead", max_tokens=1))) == "hello"
    assert isinstance((await cluster.records(identity="unloaded-0"))[-1].content, EngineStopped)
    assert await cluster.engine("kept-0") == kept
    expected = {kept.pid, (await cluster.engine("dead-0")).pid}
    assert {process.pid for process in cluster.engine_processes()} == expected


async def test_after_kill_9_of_an_engine_it_is_restarted_and_its_requests_go_on(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", options=SLOW)
    await cluster.load("other")
    pid = (await cluster.engine("chat-0")).pid
    other = await cluster.engine("other-0")

    streams = await streams_begin(cluster, "chat", 3)
    async with cluster.http() as http:
        whole = asyncio.create_task(http.post(CHAT, json=chat("chat")))

        async def all_run() -> bool:
            return (await cluster.engine_says("chat-0"))["running"] == 4

        await cluster.poll(all_run, "the whole answer is being made too")
        os.kill(pid, signal.SIGKILL)
        assert said(await http.post(CHAT, json=chat("other", max_tokens=1))) == "hello"
        heard = await asyncio.gather(*streams)
        answer = await whole
    assert [text_of(chunks) for chunks in heard] == [" ".join([f"word{n}"] * 30) for n in range(3)]
    assert said(answer) == " ".join(["hello"] * 30)

    failed = await cluster.logged(EngineFailed, "chat-0")
    assert failed.exit_code == -9
    assert "killed by signal 9" in failed.reason
    assert failed.attempt == 1
    assert failed.retry_in == 0.2
    await cluster.stands("chat")
    assert (await cluster.engine("chat-0")).pid != pid
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    assert await cluster.engine("other-0") == other


async def test_what_served_starts_again_before_what_never_did(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--restart-pause", "1")
    await cluster.ready()
    await cluster.load("serves")
    await cluster.load("next-a", options={"simulate-start": 4}, stands="")
    await cluster.logged(EngineStarted, "next-a-0")
    for name in ("next-b", "next-c"):
        await cluster.load(name, options={"simulate-start": 1}, stands="")
    os.kill((await cluster.engine("serves-0")).pid, signal.SIGKILL)
    for name in ("next-b", "next-c"):
        await cluster.stands(name)
    started = [each.id for each in await cluster.records(EngineStarted)]
    assert started == ["serves-0", "next-a-0", "serves-0", "next-b-0", "next-c-0"]


async def test_a_clean_stop_leaves_no_engine_and_the_next_start_brings_back_what_was_loaded(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", replicas=2)
    await cluster.load("slow", options={"simulate-start": 30}, stands="loading")
    await cluster.logged(EngineStarted, "slow-0")
    assert len(cluster.engine_processes()) == 3

    assert await asyncio.to_thread(cluster.stop, "up") == 0
    assert cluster.pids() == set()

    cluster.again("up")
    await cluster.ready()
    await cluster.stands("chat")
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    stops = [r.content for r in await cluster.records(EngineStopped)]
    assert [stop.reason for stop in stops] == ["the node was stopped"] * 3  # type: ignore[union-attr]
    assert await cluster.records(EngineFailed) == []


async def test_after_kill_9_of_everything_the_same_is_served_from_the_same_places(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", replicas=2, options=SLOW)
    await cluster.load("embed", task="embedding", memory="300MiB")
    before = (await cluster.state()).replicas
    talking = asyncio.create_task(stream(cluster, "chat", "word"))
    await asyncio.sleep(0.5)

    cluster.kill_everything()
    await asyncio.gather(talking, return_exceptions=True)
    assert cluster.pids() == set()
    cluster.up()
    await cluster.ready()
    await cluster.until(
        lambda state: all(
            replica.serving
            and replica.engine is not None
            and replica.engine.pid != before[identity].engine.pid  # type: ignore[union-attr]
            for identity, replica in state.replicas.items()
        ),
        "all engines are new and serve",
    )

    after = (await cluster.state()).replicas
    assert set(after) == {"chat-0", "chat-1", "embed-0"}
    for identity, replica in after.items():
        old = before[identity]
        assert (replica.node, replica.devices, replica.memory) == (
            old.node,
            old.devices,
            old.memory,
        )
        assert replica.version == old.version, "no new plan was needed"
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_after_kill_9_of_the_gateway_nothing_is_generated_for_its_lost_clients(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", options={**SLOW, "simulate-tokens": 1000})
    streams = await streams_begin(cluster, "chat", 3)

    cluster.kill("gateway")
    heard = await asyncio.gather(*streams, return_exceptions=True)
    assert all(isinstance(error, httpx.HTTPError) for error in heard)

    async def aborted() -> bool:
        counts = await cluster.engine_says("chat-0")
        return counts["running"] == 0 and counts["aborted"] == 3

    await cluster.poll(aborted, "the three are aborted")
    await cluster.ready()
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_a_request_that_died_with_its_router_is_sent_again_and_streams_go_on(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", options=SLOW)
    streams = await streams_begin(cluster, "chat", 3)

    cluster.kill("router")
    async with cluster.http() as http:
        answers = await asyncio.gather(
            *(http.post(CHAT, json=chat("chat", f"word{n}", max_tokens=1)) for n in range(5))
        )
    assert [said(answer) for answer in answers] == [f"word{n}" for n in range(5)]
    heard = await asyncio.gather(*streams)
    assert [text_of(chunks) for chunks in heard] == [" ".join([f"word{n}"] * 30) for n in range(3)]
    assert (await cluster.engine_says("chat-0"))["finished"] == 8, "none was answered twice"
