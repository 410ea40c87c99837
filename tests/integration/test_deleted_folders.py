"""What is deleted under a cluster that runs is told, with what to do about it."""

from __future__ import annotations

import json
import shutil

import httpx
import nats
import pytest

from nebula.events import subjects
from nebula.store.server import NAME
from tests.integration.asking import CHAT, chat, error
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def not_ready(cluster: Cluster, http: httpx.AsyncClient, words: str) -> str:
    """Wait until /ready says so with these words."""

    async def so() -> bool:
        answer = await http.get("/ready")
        return answer.status_code == 503 and words in error(answer, 503)["message"]

    await cluster.poll(so, f"/ready says {words!r}")
    return str(error(await http.get("/ready"), 503)["message"])


async def looked_at(cluster: Cluster) -> None:
    """Wait until the log has been seen by the watch of its store, which tells of each look."""
    client = await nats.connect(cluster.url())
    looks = await client.subscribe(subjects.store_status(NAME))
    for _ in range(2):  # the first may have begun before there was a log
        await looks.next_msg(30)
    await client.close()


async def test_a_log_deleted_from_disk_is_told_and_can_still_be_exported(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    events = await cluster.last_seq()
    await looked_at(cluster)
    shutil.rmtree(cluster.folder / "home" / "nats")
    async with cluster.http() as http:
        reason = await not_ready(cluster, http, "nebula export")
        assert "acknowledged" in reason
        assert (await http.post(CHAT, json=chat("chat", max_tokens=1))).status_code == 200
    file = cluster.folder / "saved.jsonl"
    told = await cluster.nebula("export", str(file))
    assert told.code == 0, told.err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["seq"] for line in lines if "seq" in line] == list(range(1, events + 1))


async def test_an_actor_whose_log_folder_was_deleted_goes_on_in_a_new_file(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    logs = cluster.folder / "home" / "logs"
    shutil.rmtree(logs)
    await cluster.load("chat")

    async def told_anew() -> bool:
        node = logs / "node.log"
        return node.exists() and "starting chat-0" in node.read_text()

    await cluster.poll(told_anew, "the node's log goes on")
    said = (logs / "node.log").read_text()
    assert "the log file was deleted: what was in it is lost, and it goes on here" in said
    assert said.count("was deleted") == 1


async def test_an_actor_s_last_word_is_told_although_its_log_file_was_deleted(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.up(own_nats=False)
    await cluster.ready()
    shutil.rmtree(cluster.folder / "home" / "logs")
    client = await nats.connect(cluster.url())
    await client.jetstream().delete_stream("NEBULA_EVENTS")
    await client.close()
    assert cluster.ended("up") == 1
    out = cluster.output("up")
    assert "can't run: the log" in out
    assert "said nothing" not in out
