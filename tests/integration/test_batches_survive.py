"""A batch amid which everything dies: each line has one result, and the counts are right."""

import os
import signal

import pytest

from nebula.store import batch_queue
from tests.integration.asking import chat
from tests.integration.cluster import Cluster
from tests.integration.test_batches import OVER, jsonl, line, official, read, submitted
from tests.ports import free_port

pytestmark = pytest.mark.anyio

LINES = 1000
PATIENCE = 180.0


async def kept(cluster: Cluster, stream: str) -> int:
    async with cluster.joined() as projection:
        jetstream = projection.log.connection.client.jetstream()
        return int((await jetstream.stream_info(stream)).state.messages)


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

        async def ended() -> bool:
            return (await client.batches.retrieve(batch.id)).status in OVER

        await cluster.poll(ended, "the batch is over", PATIENCE)
        found = await client.batches.retrieve(batch.id)
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
