"""What nodes report carries the node in its subject, and counts for what it holds alone."""

from __future__ import annotations

import pytest

from nebula.events import record
from nebula.events.record import Record
from nebula.events.version import LOCKS, VERSION
from nebula.events.vocabulary import (
    REPORTS,
    AdapterLoaded,
    ClusterFounded,
    ClusterVersionRaised,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    ModelMeasured,
)
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def ready(request: pytest.FixtureRequest) -> None:
    """The shared cluster answers before a test of it begins."""
    if "cluster" in request.fixturenames:
        shared: Cluster = request.getfixturevalue("cluster")
        await shared.ready()


async def reports(cluster: Cluster) -> list[Record]:
    """Return what nodes have reported about replicas and models."""
    return [each for each in await cluster.records() if each.type in REPORTS]


async def test_a_whole_life_of_a_model_is_reported_in_the_name_of_its_node(
    cluster: Cluster,
) -> None:
    folder = cluster.folder / "poet"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    await cluster.load("life", lora=True, memory=None)
    told = await cluster.nebula("adapters", "load", "life", "poet", str(folder))
    assert told.code == 0, told.err
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("life", max_tokens=1))) == "hello"
    assert (await cluster.nebula("scale", "life", "0")).code == 0
    assert (await cluster.nebula("unload", "life")).code == 0
    found = await reports(cluster)
    assert {each.node for each in found} == {"here"}
    assert all(each.subject.endswith(f".{each.type}.here") for each in found)
    kinds = {each.type for each in found}
    wanted = (EngineStarted, EngineReady, AdapterLoaded, EngineStopped, ModelMeasured)
    assert kinds >= {each.__name__ for each in wanted}
    shown = await cluster.nebula("events", "--node", "here", "--json")
    assert "EngineReady" in shown.out
    assert cluster.violations() == []


@pytest.mark.parametrize("node", ["there", ""])
async def test_a_forged_report_changes_nothing(cluster: Cluster, node: str) -> None:
    """Of a node that does not hold the replica, or of one that its subject does not name."""
    identity = f"forged{len(node)}"
    await cluster.load(identity)
    engine = await cluster.engine(f"{identity}-0")
    before = (await cluster.state()).replicas[f"{identity}-0"]
    forged: list[Event] = [
        EngineStarted(2**20, 1.0, 80, "/etc/passwd", plan=before.version),
        EngineFailed("so I say", attempt=9),
        EngineStopped("so I say"),
    ]
    for event in forged:
        subject = record.subject_of(f"{identity}-0", event, node)
        await cluster.publish(subject, record.encode(event))
    seq = await cluster.last_seq()
    state = await cluster.until(lambda state: state.seq >= seq, "it is folded")
    assert state.replicas[f"{identity}-0"] == before
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat(identity, max_tokens=1))) == "hello"
    assert (await cluster.engine(f"{identity}-0")).pid == engine.pid


@pytest.mark.parametrize("said_by", ["there", "here"])
async def test_a_report_without_its_node_or_of_two_nodes_is_rejected(
    cluster: Cluster, said_by: str
) -> None:
    subject = f"nebula.events.replica.x-0.EngineFailed{'.here' if said_by == 'there' else ''}"
    body = record.encode(EngineFailed("so I say", node=said_by))
    reason = await cluster.publish_rejected(subject, body)
    of_two = "its body is of node 'there', its subject of 'here'"
    assert (of_two if said_by == "there" else "a report ends with its node") in reason


async def test_nodes_name_themselves_once_the_version_is_raised(own_cluster: Cluster) -> None:
    own_cluster.start("nats")
    connection = await Connection(own_cluster.url(), "older").open(patience=10)
    log = await Log(connection).open(patience=10)
    await log.append("lab", ClusterFounded("", LOCKS - 1))
    await connection.close()
    for name in ("router", "node", "gateway"):
        own_cluster.start(name)
    await own_cluster.ready()
    await own_cluster.load("early")
    await own_cluster.until(lambda state: state.cluster.version == VERSION, "the version is raised")
    await own_cluster.load("late")
    first = (await own_cluster.records(ClusterVersionRaised))[0]
    for each in await reports(own_cluster):
        assert each.node == ("" if each.seq < first.seq else "here"), each
    assert {each.id for each in await reports(own_cluster) if not each.node} >= {"early-0"}
    state = await own_cluster.state()
    assert not state.rejections
    assert all(state.replicas[each].phase == "ready" for each in ("early-0", "late-0"))
