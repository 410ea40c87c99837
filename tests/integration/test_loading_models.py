"""Models on their way: requests that wait for them, engines that fail, and what heals them."""

import asyncio
from itertools import pairwise

import pytest

from nebula.events.model_status import model_status
from nebula.events.vocabulary import EngineFailed, EngineReady, EngineStarted
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

TOLD = "ValueError: The simulated engine was told to fail at its start."


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


async def test_a_request_waits_for_a_model_that_is_loading_and_is_answered(
    cluster: Cluster,
) -> None:
    await cluster.load("slow", options={"simulate-start": 0.7}, stands="")
    async with cluster.http() as http:
        whole, streamed = await asyncio.gather(
            http.post(CHAT, json=chat("slow", max_tokens=1)),
            http.post(CHAT, json=chat("slow", max_tokens=1, stream=True)),
        )
    assert said(whole) == "hello"
    assert '"content":"hello"' in streamed.text


async def test_a_client_that_will_not_wait_so_long_is_told_how_far_it_is_and_when_to_ask_again(
    cluster: Cluster,
) -> None:
    port = free_port()
    cluster.start("gateway", "--port", str(port), "--load-timeout", "0.3")
    await cluster.ready(port)
    await cluster.load("slower", options={"simulate-start": 3}, stands="")
    await cluster.logged(EngineStarted, "slower-0")
    async with cluster.http(port) as http:
        answer = await http.post(CHAT, json=chat("slower"))
        refused = error(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert "model 'slower' is loading for " in refused["message"]
        assert "slower-0 on here is starting (attempt 1)" in refused["message"]
        assert "--load-timeout" in refused["message"]
        assert "X-Request-Timeout" in refused["message"]
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    async with cluster.http() as http:
        assert (await http.delete("/admin/models/slower")).is_success
    cluster.stop("gateway")


async def test_an_engine_that_fails_at_its_start_is_tried_again_and_then_given_up_with_its_reason(
    cluster: Cluster,
) -> None:
    await cluster.load("broken", options={"simulate-exit-at-start": 3}, stands="failed")

    records = await cluster.records(EngineStarted, EngineFailed, identity="broken-0")
    first, failed, second, failed_again = [record.content for record in records]
    assert [type(first), type(second)] == [EngineStarted, EngineStarted]
    for attempt, (event, retry_in) in enumerate([(failed, 0.2), (failed_again, None)], start=1):
        assert isinstance(event, EngineFailed)
        assert event.reason == TOLD
        assert event.exit_code == 3
        assert event.log_tail[-1] == TOLD
        assert event.attempt == attempt
        assert event.retry_in == retry_in
    assert records[2].time - records[1].time >= 0.2e9, "a restart comes after a pause"

    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("broken"))
        assert TOLD in error(answer, 503)["message"]
        assert "retry-after" not in answer.headers, "waiting would not help"
        shown = (await http.get("/admin/models/broken")).json()["status"]
        assert shown["phase"] == "failed"
        assert shown["detail"] == f"broken-0 on here gave up after 2 attempts: {TOLD}"
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    told = await cluster.nebula("status")
    assert "broken is failed, 0 of 1 replicas serve: broken-0 on here gave up" in told.out
    assert TOLD in told.out


async def test_a_repeated_request_with_better_options_heals_what_was_given_up(
    cluster: Cluster,
) -> None:
    await cluster.load("healed", options={"simulate-exit-at-start": 1}, stands="failed")
    await cluster.load("healed", options={})
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("healed", max_tokens=1))) == "hello"
    assert (await cluster.replica("healed-0")).reason == ""


async def test_the_same_request_once_more_tries_again_what_was_given_up(cluster: Cluster) -> None:
    folder = cluster.folder / "late"
    await cluster.load("late", source=str(folder), stands="unschedulable")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    await cluster.load("late", source=str(folder))


async def test_a_folder_that_is_not_there_is_named_as_what_it_is(cluster: Cluster) -> None:
    await cluster.load("missing", source="/does/not/exist", stands="unschedulable")
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("missing")), 503)
    assert "here: there is no /does/not/exist on this node" in refused["message"]


async def test_a_changed_request_replaces_the_running_engine(cluster: Cluster) -> None:
    await cluster.load("changed")
    await cluster.load("changed", options={"simulate-tokens": 2}, stands="")
    state = await cluster.until(
        lambda state: (
            (model := state.models["changed"]).proven == model.spec and len(model.replicas) == 1
        ),
        "another engine serves, and the one before it is gone",
    )
    assert state.models["changed"].replicas == ("changed-1",)
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("changed"))) == "hello hello"


async def test_engines_that_share_a_device_start_one_after_the_other(cluster: Cluster) -> None:
    names = ["queue-a", "queue-b", "queue-c"]
    for name in names:
        await cluster.load(
            name, replicas=2, memory="128MiB", options={"simulate-start": 0.1}, stands=""
        )
    for name in names:
        await cluster.stands(name)
    events = [
        record
        for record in await cluster.records(EngineStarted, EngineReady)
        if record.id.startswith("queue-")
    ]
    assert len(events) == 12
    for started, ready in zip(events[::2], events[1::2], strict=True):
        assert isinstance(started.content, EngineStarted)
        assert isinstance(ready.content, EngineReady)
        assert started.id == ready.id
    ports = {(await cluster.engine(record.id)).port for record in events}
    assert len(ports) == 6
    assert all(earlier.time < later.time for earlier, later in pairwise(events))


async def test_a_start_that_never_ends_is_ended_and_the_next_one_on_the_device_begins(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--start-limit", "4", "--restart-limit", "1")
    await cluster.ready()
    await cluster.load("stuck", options={"simulate-start": 3600}, stands="")
    await cluster.logged(EngineStarted, "stuck-0")
    await cluster.load("next", stands="")
    state = await cluster.until(lambda state: "next-0" in state.replicas, "it is placed")
    assert "waits until stuck-0 has started" in model_status(state, state.models["next"]).detail
    failed = await cluster.logged(EngineFailed, "stuck-0")
    assert "it did not get ready, and has written nothing for" in failed.reason
    await cluster.stands("next")
    await cluster.stands("stuck", "failed")


async def test_what_else_listens_on_an_engines_port_is_not_taken_for_the_engine(
    own_cluster: Cluster,
) -> None:
    cluster, asked = own_cluster, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            asked.set()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    cluster.up("--start-limit", "4", "--restart-limit", "1", "--engine-listen", "port")
    await cluster.ready()
    await cluster.load("stuck", options={"simulate-start": 3600}, stands="")
    started = await cluster.logged(EngineStarted, "stuck-0")
    async with await asyncio.start_server(answer, "127.0.0.1", started.port):
        await asked.wait()
        await cluster.logged(EngineFailed, "stuck-0")
    assert not await cluster.records(EngineReady)
