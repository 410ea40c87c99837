"""A batch amid which everything dies: each line has one result, and the counts are right."""

import os
import signal

import openai
import pytest

from nebula.store import batch_queue
from tests.integration.asking import chat
from tests.integration.cluster import Cluster
from tests.integration.test_batches import jsonl, line, official, over, read, submitted
from tests.ports import free_port

pytestmark = pytest.mark.anyio

LINES = 1000
PATIENCE = 180.0


async def kept(cluster: Cluster, stream: str) -> int:
    async with cluster.joined() as projection:
        jetstream = projection.log.connection.client.jetstream()
        return int((await jetstream.stream_info(stream)).state.messages)


def official_at(port: int) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0, timeout=60
    )


async def results_kept(cluster: Cluster) -> int:
    return await kept(cluster, batch_queue.RESULTS)


async def test_each_line_has_one_result_whatever_is_killed(own_cluster: Cluster) -> None:
    cluster, port = own_cluster, free_port()
    cluster.start_all()
    await cluster.ready()
    cluster.start("gateway-2", "--port", str(port))
    await cluster.ready(port)
    await cluster.load("chat", replicas=2)
    for replica in ("chat-0", "chat-1"):
        await cluster.tell_engine(replica, token=0.2)
    lines = [line(f"l{n}", chat("chat", f"word {n}", max_tokens=10)) for n in range(LINES)]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines))

        async def done(count: int) -> None:
            """Wait for so many results, of a batch that is not over."""

            async def so() -> bool:
                assert await results_kept(cluster) < LINES
                return await results_kept(cluster) >= count

            await cluster.poll(so, f"{count} lines have a result", PATIENCE)

        await done(20)
        os.kill((await cluster.engine("chat-0")).pid, signal.SIGKILL)
        cluster.kill("gateway")
        cluster.again("gateway")
        await done(200)
        cluster.kill("router")
        cluster.again("router")
        await done(400)
        cluster.kill("nats")
        cluster.again("nats")
        await done(600)
        cluster.kill("gateway-2")
        cluster.kill_everything()
        cluster.start_all()
        await cluster.ready()
        found = await over(cluster, client, batch.id, PATIENCE)
        assert found.status == "completed"
        results = await read(client, found.output_file_id)
        assert found.error_file_id is None
    assert [each["custom_id"] for each in results] == [f"l{n}" for n in range(LINES)]
    for number, each in enumerate(results):
        text = each["response"]["body"]["choices"][0]["message"]["content"]
        assert text.startswith(f"word {number} word {number}"), "whole, and of its own line"
        assert len(text.split()) == 10
    assert found.request_counts is not None
    counts = found.request_counts
    assert (counts.total, counts.completed, counts.failed) == (LINES, LINES, 0)
    assert await kept(cluster, batch_queue.LINES) == 0
    assert await kept(cluster, batch_queue.RESULTS) == 0


async def test_a_gateway_that_stood_still_changes_nothing_when_it_goes_on(
    own_cluster: Cluster,
) -> None:
    cluster, port = own_cluster, free_port()
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    await cluster.tell_engine("chat-0", token=0.2)
    lines = [line(f"l{n}", chat("chat", f"word {n}", max_tokens=10)) for n in range(100)]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines))

    async def begun() -> bool:
        return await kept(cluster, batch_queue.RESULTS) >= 10

    await cluster.poll(begun, "some lines have a result", PATIENCE)
    os.kill(cluster.pid("gateway"), signal.SIGSTOP)
    cluster.start("gateway-2", "--port", str(port))
    async with cluster.joined() as projection:
        assert await projection.until(lambda state: state.batches[batch.id].over, PATIENCE)
    async with official_at(port) as other:
        found = await over(cluster, other, batch.id)
        before = await read(other, found.output_file_id)
    os.kill(cluster.pid("gateway"), signal.SIGCONT)
    await cluster.ready()

    async def clean() -> bool:
        return await kept(cluster, batch_queue.LINES) == 0

    await cluster.poll(clean, "no line is left")
    async with official(cluster) as client:
        assert await client.batches.retrieve(batch.id) == found
        assert await read(client, found.output_file_id) == before
    assert [each["custom_id"] for each in before] == [f"l{n}" for n in range(100)]
    assert [each.type for each in await cluster.records(identity=batch.id)].count(
        "BatchFinished"
    ) == 1


async def test_a_batch_goes_on_when_its_streams_are_deleted(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", max_in_flight=8)
    await cluster.tell_engine("chat-0", token=0.1)
    lines = [line(f"l{n}", chat("chat", f"word {n}", max_tokens=10)) for n in range(60)]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines))

        async def begun() -> bool:
            return await kept(cluster, batch_queue.RESULTS) >= 10

        await cluster.poll(begun, "some lines have a result", PATIENCE)
        async with cluster.joined() as projection:
            jetstream = projection.log.connection.client.jetstream()
            await jetstream.purge_stream(batch_queue.LINES)
            await jetstream.delete_stream(batch_queue.RESULTS)
            assert await projection.until(lambda state: state.batches[batch.id].over, PATIENCE)
        found = await over(cluster, client, batch.id)
        assert found.status == "completed"
        results = await read(client, found.output_file_id)
    assert [each["custom_id"] for each in results] == [f"l{n}" for n in range(60)]
