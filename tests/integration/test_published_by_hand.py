"""Events as `nats pub` sends them: good ones drive the cluster, bad ones are answered."""

import asyncio
import json

import pytest

from nebula.events.state import State
from nebula.events.vocabulary import EngineStopped, EventRejected, ModelAssigned
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

MODEL = "nebula.events.model"


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


def assigned(**changed: object) -> bytes:
    """Return a forged plan for the model `chat`, in every point as a router might write it."""
    place = {"replica": "chat-0", "node": "here", "devices": [0], "memory": 1, "version": 2}
    return json.dumps({"version": 2, "replicas": [{**place, **changed}]}).encode()


def started(**changed: object) -> bytes:
    """Return a forged report of an engine's start."""
    report = {"pid": 10**9, "created": 1.5e9, "port": 9, "log_file": "/x", "version": 1}
    return json.dumps({**report, **changed}).encode()


async def test_an_event_whose_answer_would_be_too_large_holds_up_no_placement(
    cluster: Cluster,
) -> None:
    key = b"\x7f" * 1_700_000  # each of them takes four characters where it is shown
    body = b'{"source":"m","options":{"' + key + b'":1}}'
    await cluster.publish(f"{MODEL}.huge.ModelLoadRequested", body)
    await cluster.publish(f"{MODEL}.after.ModelLoadRequested", b'{"source": "simulated"}')
    await cluster.stands("after")
    await cluster.until(lambda state: not state.rejections, "the huge event is answered")
    await cluster.publish(f"{MODEL}.after.ModelUnloadRequested", b"")
    await cluster.until(lambda state: "after" not in state.models, "it is unloaded")


async def test_a_source_alone_loads_a_model_and_an_empty_body_unloads_it(cluster: Cluster) -> None:
    await cluster.publish(f"{MODEL}.mine.ModelLoadRequested", b'{"source": "simulated"}')
    await cluster.stands("mine")
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("mine", max_tokens=1))) == "hello"

    pid = (await cluster.engine("mine-0")).pid
    await cluster.publish(f"{MODEL}.mine.ModelUnloadRequested", b"")
    await cluster.until(lambda state: "mine" not in state.models, "it is unloaded")
    assert pid not in cluster.pids()


@pytest.mark.parametrize(
    ("subject", "payload", "words"),
    [
        (f"{MODEL}.x.ModelLoadRequested", b"hello", "JSON is malformed"),
        (f"{MODEL}.x.ModelLoadRequested", b"", "missing required field `source`"),
        (f"{MODEL}.x.ModelLoadRequested", b"\xff\xfe", "ModelLoadRequested: "),
        (f"{MODEL}.x.ModelLoadRequested", b"[]", "Expected `object`"),
        (f"{MODEL}.x.ModelLoadRequested", b'{"source": 5}', "Expected `str`, got `int`"),
        (f"{MODEL}.x.ModelLoadRequested", b'{"source": "m", "sauce": 1}', "field `sauce`"),
        (f"{MODEL}.x.ModelLoadRequested", b'{"source": "\\ud800"}', "ModelLoadRequested: "),
        (f"{MODEL}.x.ModelLoadRequested", b'{"source":' + b"[" * 500_000, "ModelLoadRequested"),
        (f"{MODEL}.x.ModelLoadRequested", b"\x00" * 1024 * 1024, "JSON is malformed"),
        (f"{MODEL}.x.ModelLoadRequested", b'{"source": "m", "memory": "x"}', "memory: 'x'"),
        (
            f"{MODEL}.x.ModelLoadRequested",
            b'{"source": "m", "name": "chat"}',
            "name of model 'chat'",
        ),
        (
            f"{MODEL}.x.ModelLoadRequested",
            json.dumps({"source": "m", "name": "\N{PARROT}\u202e" * 90}).encode(),
            "can't be printed",
        ),
        (f"{MODEL}.x.ModelScaleRequested", b'{"replicas": 1e99}', "ModelScaleRequested"),
        (f"{MODEL}.x.ModelScaleRequested", b'{"replicas": 1}', "there is no model 'x'"),
        (f"{MODEL}.x.ModelUnloadRequested", b"{}", "there is no model 'x'"),
        (f"{MODEL}.chat.AdapterLoadRequested", b'{"name":"a","source":"b"}', "without LoRA"),
        (f"{MODEL}.chat.AdapterUnloadRequested", b'{"name":"a"}', "has no adapter 'a'"),
        (f"{MODEL}.x.ModelPainted", b"{}", "no event type of Nebula"),
        (f"{MODEL}.x.EngineReady", b"{}", "an event of a replica, not of a model"),
        ("nebula.events.pet.x.ModelLoadRequested", b"{}", "'pet' is none of model, replica"),
        (f"{MODEL}.ModelLoadRequested", b'{"source": "m"}', "the subject is not"),
        (f"{MODEL}.a.b.ModelLoadRequested", b'{"source": "m"}', "the subject is not"),
        ("nebula.events.x", b"{}", "the subject is not"),
        (f"{MODEL}.a$b.ModelLoadRequested", b'{"source": "m"}', "is no id"),
        (f"{MODEL}.größe.ModelLoadRequested", b'{"source": "m"}', "is no id"),
        (f"{MODEL}.{'x' * 129}.ModelLoadRequested", b'{"source": "m"}', "is no id"),
        (f"{MODEL}.chat.ModelAssigned", b'{"version": 1}', "missing required field `replicas`"),
        (f"{MODEL}.chat.ModelAssigned", assigned(replica="other-0"), "no replica of 'chat'"),
        (f"{MODEL}.chat.ModelAssigned", assigned(replica="chat-x"), "no replica of 'chat'"),
        (f"{MODEL}.chat.ModelAssigned", assigned(devices=[]), "replicas[0].devices"),
        (f"{MODEL}.chat.ModelAssigned", assigned(node="a.b"), "replicas[0].node"),
        (f"{MODEL}.chat.ModelAssigned", assigned(memory=-1), "replicas[0].memory"),
        (f"{MODEL}.chat.ModelAssigned", b'{"version": 99, "replicas": []}', "the next plan"),
        ("nebula.events.replica.chat-0.EngineStarted", b'{"pid": "one"}', "EngineStarted: "),
        ("nebula.events.replica.chat-0.EngineStarted", started(pid=-5), "`$.pid`"),
        ("nebula.events.replica.chat-0.EngineStarted", started(pid=1), "`$.pid`"),
        ("nebula.events.replica.chat-0.EngineStarted", started(pid=2**40), "`$.pid`"),
        ("nebula.events.replica.chat-0.EngineStarted", started(port=70_000), "`$.port`"),
        ("nebula.events.node.here.NodeRegistered", b'{"devices": 7}', "NodeRegistered: "),
        ("nebula.events.node.nowhere.NodeDrainRequested", b"", "there is no node 'nowhere'"),
    ],
    ids=lambda value: ascii(value)[:50] if isinstance(value, bytes) else "",
)
async def test_what_is_not_valid_is_rejected_by_its_sequence_and_stops_nothing(
    cluster: Cluster, subject: str, payload: bytes, words: str
) -> None:
    before = cluster.pids()
    reason = await cluster.publish_rejected(subject, payload)
    assert words in reason
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    assert set((await cluster.state()).models) == {"chat"}
    assert cluster.pids() == before


async def test_garbage_on_any_other_subject_of_nebula_stops_nothing(cluster: Cluster) -> None:
    before = cluster.pids()
    seq = await cluster.last_seq()
    for subject in (
        "nebula.inference.requests.chat",
        "nebula.inference.replicas.chat.chat-0",
        "nebula.inference.cancel.chat.x",
        "nebula.inference.finished.chat",
        "nebula.status.replica.chat.chat-0",
        "nebula.status.node.here",
        "nebula.logs.here",
        "nebula.nonsense",
    ):
        for payload in (b"", b"\xff", b"{}", b"[" * 100_000):
            await cluster.publish(subject, payload)
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    told = await cluster.nebula("logs", "chat-0")
    assert "Listening" in told.out
    assert cluster.pids() == before
    assert await cluster.last_seq() == seq


async def test_a_thousand_bad_events_among_good_ones_are_all_answered(cluster: Cluster) -> None:
    before = len(await cluster.records(EventRejected))
    async with cluster.joined() as projection:
        client = projection.log.connection.client
        for number in range(500):
            await client.publish(f"{MODEL}.bad-{number}.ModelLoadRequested", b"{")
            await client.publish(f"{MODEL}.bad-{number}.ModelUnloadRequested", b"")
        await client.publish(f"{MODEL}.good.ModelLoadRequested", b'{"source": "simulated"}')
        await client.flush()
    await cluster.stands("good")
    await cluster.until(lambda state: not state.rejections, "all are answered")
    rejected = await cluster.records(EventRejected)
    assert len(rejected) - before == 1000
    assert len({record.id for record in rejected}) == len(rejected), "each is answered once"
    await cluster.publish(f"{MODEL}.good.ModelUnloadRequested", b"")
    await cluster.until(lambda state: "good" not in state.models, "it is unloaded")


async def test_an_answer_that_was_forged_beforehand_holds_nothing_up(cluster: Cluster) -> None:
    seq = await cluster.last_seq()
    forged = b'{"subject": "x", "reason": "forged"}'
    for number in (0, seq + 2, seq + 3, seq + 4, 10**30):
        await cluster.publish(f"nebula.events.log.{number}.EventRejected", forged)
    await cluster.publish_rejected(f"{MODEL}.x.ModelUnloadRequested", b"")
    await cluster.load("after", memory="128MiB")


async def test_what_is_published_while_only_nats_is_up_takes_effect_when_the_actors_start(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    for name in ("gateway", "node", "router"):
        own_cluster.kill(name)

    await own_cluster.publish(f"{MODEL}.early.ModelLoadRequested", b'{"source": "simulated"}')
    await own_cluster.publish(f"{MODEL}.early.ModelNonsense", b"{}")
    for name in ("router", "node", "gateway"):
        own_cluster.again(name)
    await own_cluster.stands("early")
    await own_cluster.ready()
    async with own_cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("early", max_tokens=1))) == "hello"
    assert len(await own_cluster.records(EventRejected)) == 1
    assert len(await own_cluster.records(ModelAssigned)) == 1


async def test_a_forged_start_of_an_engine_is_put_right_by_the_next_node(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat")
    real = await own_cluster.engine("chat-0")
    await own_cluster.publish("nebula.events.replica.chat-0.EngineStarted.here", started())
    own_cluster.kill("node")
    seq = await own_cluster.last_seq()
    own_cluster.again("node")
    assert await own_cluster.logged(EngineStopped, "chat-0", after=seq)
    await own_cluster.stands("chat")
    assert len(own_cluster.engine_processes()) == 1
    assert (await own_cluster.engine("chat-0")).pid not in (real.pid, 10**9)
    async with own_cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


@pytest.mark.parametrize("given_up", [False, True])
async def test_an_engine_that_is_said_to_have_failed_and_runs_is_ended_and_started_anew(
    cluster: Cluster, given_up: bool
) -> None:
    await cluster.load("said")
    before = await cluster.engine("said-0")
    report = b'{"reason": "so I say"}' if given_up else b'{"reason": "so I say", "retry_in": 1}'
    seq = await cluster.last_seq()
    await cluster.publish("nebula.events.replica.said-0.EngineFailed.here", report)
    if given_up:
        await cluster.logged(EngineStopped, "said-0", after=seq)
        await cluster.stands("said", "failed")
        assert before.pid not in cluster.pids()
        await cluster.load("said", stands="")

    def anew(state: State) -> bool:
        replica = state.replicas["said-0"]
        return replica.serving and replica.engine is not None and replica.engine.pid != before.pid

    state = await cluster.until(anew, "another engine serves")
    assert state.replicas["said-0"].memory == 512 * 2**20
    assert before.pid not in cluster.pids()
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("said", max_tokens=1))) == "hello"
    assert (await cluster.nebula("unload", "said")).code == 0


async def test_messages_that_make_no_sense_leave_no_traceback(cluster: Cluster) -> None:
    nested, digits = b'{"a":' * 5000 + b"1" + b"}" * 5000, b"9" * 5000
    for subject in (
        *("nebula.status.router.x", "nebula.status.replica.chat.chat-0", "nebula.status.node.here"),
        *("nebula.status.store.x", "nebula.inference.finished.chat"),
        *("nebula.inference.cancel.chat.x", "nebula.inference.requests.chat"),
        *("nebula.inference.replicas.chat.chat-0", "nebula.events.model.x.ModelLoadRequested"),
    ):
        for body in (nested, digits, b"\xff", b'{"requests":' + digits + b"}"):
            await cluster.publish(subject, body)
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    told = [
        path.name
        for path in cluster.folder.rglob("*.log")
        if "Traceback" in path.read_text(errors="replace")
    ]
    assert told == []
