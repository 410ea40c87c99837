"""`nebula why`: what was requested, what the router saw, what the node did, and what to do now."""

import asyncio
import json
from typing import Any

import pytest

from nebula.events import bundles, subjects
from nebula.events.vocabulary import EngineReady, ModelAssigned
from nebula.store.connection import Connection
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", name="org/chat", replicas=2)

    asyncio.run(load())


async def told(cluster: Cluster, *arguments: str) -> str:
    said = await cluster.nebula("why", *arguments)
    assert said.code == 0, said.err
    return said.out


async def story(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(await told(cluster, *arguments, "--json"))


async def test_a_model_that_serves_tells_how_it_came_to_be(cluster: Cluster) -> None:
    found = await story(cluster, "model", "org/chat")
    assert found["headline"] == "chat (org/chat) is ready, 2 of 2 replicas serve"
    assert found["todo"] == ""
    asked, plan, *rest = found["events"]
    assert asked["text"].startswith("asked to load simulated for chat, 2 replicas")
    assert plan["cause"] == asked["seq"]
    assert any("chat-0: here/cpu0 was chosen" in reason for reason in plan["reasons"])
    assert {line["cause"] for line in rest} >= {plan["seq"]}


async def test_a_model_that_fits_nowhere_ends_in_what_to_do(cluster: Cluster) -> None:
    await cluster.load("huge", memory="900TiB", stands="unschedulable")
    text = await told(cluster, "model", "huge")
    assert "no candidate can take it" in text
    assert "What to do: Add a node with a device that has 921600.0 GiB free" in text
    async with cluster.http() as http:
        assert (await http.delete("/admin/models/huge")).is_success
    await cluster.until(lambda state: "huge" not in state.models, "it is unloaded")
    assert "huge does not exist" in await told(cluster, "model", "huge")


async def test_a_model_whose_engine_fails_says_where_to_look(cluster: Cluster) -> None:
    await cluster.load("bad", stands="failed", options={"simulate-exit-at-start": 3})
    text = await told(cluster, "model", "bad")
    assert "engine failed (attempt 2, exit code 3; not tried again)" in text
    assert "`nebula logs bad-0` shows all it wrote" in text


async def test_a_replica_tells_its_plan_and_its_engine(cluster: Cluster) -> None:
    found = await story(cluster, "replica", "chat-1")
    assert found["headline"] == "chat-1 on here is ready"
    types = [line["subject"].split(".")[4] for line in found["events"]]
    assert types == ["ModelLoadRequested", "ModelAssigned", "EngineStarted", "EngineReady"]


async def test_an_event_tells_what_led_to_it_and_what_it_led_to(cluster: Cluster) -> None:
    [plan] = await cluster.records(ModelAssigned, identity="chat")
    ready = await cluster.records(EngineReady)
    found = await story(cluster, "seq", str(plan.seq))
    seqs = [line["seq"] for line in found["events"]]
    assert plan.cause == seqs[0]
    assert {each.seq for each in ready if each.id.startswith("chat-")} <= set(seqs)


async def test_a_request_tells_which_way_it_went(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("org/chat", max_tokens=2))
    assert answer.status_code == 200
    found = await story(cluster, "request", answer.headers["x-request-id"])
    assert "answered: " in found["headline"]
    texts = [step["text"] for step in found["steps"]]
    assert "asked for model chat: /v1/chat/completions" in texts[0]
    assert "sent it to chat-" in texts[1]
    [routed] = [step for step in found["steps"] if "sent it to" in step["text"]]
    assert sum("was chosen" in reason for reason in routed["reasons"]) == 1
    assert sum(reason.startswith("not chat-") for reason in routed["reasons"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", "nobody"), "is called 'nobody'; there are: bad, chat"),
        (("replica", "nobody-0"), "is about a replica 'nobody-0'; there are: "),
        (("seq", "9999"), "there is no sequence 9999"),
        (("request", "nothing"), "no record of request 'nothing': they are kept for some minutes"),
        (("model", "chat", "--at", "9999"), "there is no sequence 9999"),
    ],
)
async def test_what_never_was_is_said(
    cluster: Cluster, arguments: tuple[str, ...], message: str
) -> None:
    said = await cluster.nebula("why", *arguments)
    assert (said.code, said.out) == (1, "")
    assert message in said.err


async def test_a_request_whose_answer_came_in_a_bundle_tells_the_same(cluster: Cluster) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    replicas = ("chat-0", "chat-1")

    def hear(_: bytes, header: bytes, __: bytes) -> None:
        for request, _head, _size in bundles.pieces(header):
            heard.put_nowait(request)

    async def has_all() -> bool:
        return sum([(await cluster.engine_says(each))["running"] for each in replicas]) == 8

    connection = await Connection(cluster.url(), "test").open(patience=PATIENCE)
    await connection.client.listen(subjects.bundles("*", "chat", "*"), hear)
    await connection.client.flush()
    for replica in replicas:
        await cluster.tell_engine(replica, stall=True)
    async with cluster.http() as http:
        body = chat("org/chat", max_tokens=1)
        asking = [asyncio.ensure_future(http.post(CHAT, json=body)) for _ in range(8)]
        await cluster.poll(has_all, "the engines have all requests")
        for replica in replicas:
            await cluster.tell_engine(replica, stall=False)  # all go on in the same turn
        answers = await asyncio.gather(*asking)
    request = await asyncio.wait_for(heard.get(), PATIENCE)
    await connection.close()
    assert request in [answer.headers["x-request-id"] for answer in answers]
    found = await story(cluster, "request", request)
    assert "answered: " in found["headline"]
    assert any("sent it to chat-" in step["text"] for step in found["steps"])
