"""A question can't have its answer stored as an event, which the asker itself may not write."""

import asyncio

import msgspec
import pytest
from msgspec import Struct

from nebula.actors.node.log_reading import LogRequest
from nebula.events import envelope, subjects
from nebula.events.inference import BodyWanted, StillWanted, UnderWay
from nebula.events.record import parse_headers
from nebula.store import credentials
from nebula.store.connection import Connection
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


async def test_an_answer_goes_to_an_inbox_or_nowhere(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    gateways: list[str] = []
    admin = await Connection(cluster.url(), "admin").open(patience=PATIENCE)

    def hear(_: bytes, header: bytes, __: bytes) -> None:
        gateways.append(parse_headers(header)[envelope.GATEWAY])

    await admin.client.listen(subjects.replica_requests("chat", "chat-0"), hear)
    await admin.client.flush()
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat")))
    before, gateway = await cluster.last_seq(), gateways[0]

    unloads = subjects.event("model", "chat", "ModelUnloadRequested")
    questions: list[tuple[str, str, Struct, str]] = [
        (
            "engine",
            subjects.waiting(gateway),
            StillWanted("chat-0", {"unknown": UnderWay(1, 0)}),
            unloads,
        ),
        ("engine", subjects.bodies(gateway), BodyWanted("unknown", 1, 0, 10), unloads),
        (
            "operator",
            subjects.logs("here"),
            LogRequest("chat-0"),
            subjects.event("node", "here", "NodeHeard"),
        ),
    ]
    for role, subject, question, reply in questions:
        file = credentials.file_of(cluster.folder / "home" / "nats", role)
        asker = await Connection(f"file:{file}", "asker").open(patience=PATIENCE)
        body = msgspec.json.encode(question)
        await asker.client.publish(subject, body, reply=reply)
        # Messages of one sender keep their order: the answer to this one comes after any other.
        async with asyncio.timeout(PATIENCE):
            assert await asker.client.request(subject, body, timeout=PATIENCE)
        await asker.close()
    await admin.close()
    assert await cluster.last_seq() == before
    assert cluster.violations() == []
