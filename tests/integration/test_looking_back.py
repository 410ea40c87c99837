"""Looking back with the `nebula` command: the state at a moment, what changed, events, and why."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from nebula.events.intents import ModelLoadRequested, ModelScaleRequested
from nebula.events.record import Malformed, Record
from nebula.events.vocabulary import EngineReady, EventRejected, ModelAssigned
from tests.adapters import trained
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import MARK, PATIENCE, Cluster

pytestmark = pytest.mark.anyio

Shown = dict[str, Any]
MALFORMED = ("nebula.events.model.chat.ModelScaleRequested", b'{"replicas": "many"}')
OBJECTED = ("nebula.events.model.nobody.ModelScaleRequested", b'{"replicas": 2}')


class Past:
    """What happened in the cluster, and what it showed of itself meanwhile."""

    def __init__(self) -> None:
        self.shown: dict[str, Shown] = {}
        self.request = ""

    def seq(self, moment: str) -> int:
        return int(self.shown[moment]["seq"])


@pytest.fixture(scope="module")
def past(cluster: Cluster) -> Past:
    """Have something happen, and keep what /admin/state says in between."""
    found = Past()

    async def remember(moment: str) -> None:
        async with cluster.http() as http:
            found.shown[moment] = (await http.get("/admin/state")).json()

    async def happen() -> None:
        await cluster.ready()
        await cluster.until(lambda state: "here" in state.nodes, "the node is there")
        await cluster.until(lambda state: bool(state.keys), "the administrator's key is there")
        await remember("begun")
        await cluster.load("chat", name="org/chat", lora=True)
        await remember("loaded")
        async with cluster.http() as http:
            assert (await http.patch("/admin/models/chat", json={"replicas": 2})).is_success
            await cluster.until(lambda state: "chat-1" in state.replicas, "there are two")
            await cluster.stands("chat")
            await remember("scaled")
            poet = {"name": "poet", "source": trained(cluster.folder / "poet")}
            assert (await http.post("/admin/models/chat/adapters", json=poet)).is_success
            await cluster.until(
                lambda state: all("poet" in each.adapters for each in state.replicas.values()),
                "poet is in place",
            )
            await remember("adapted")
            for subject, payload in (MALFORMED, OBJECTED):
                await cluster.publish_rejected(subject, payload)
            await cluster.load("huge", memory="900TiB", stands="unschedulable")
            await remember("full")
            assert (await http.delete("/admin/models/huge")).is_success
            await cluster.until(lambda state: "huge" not in state.models, "it is unloaded")
            await cluster.load("bad", stands="failed", options={"simulate-exit-at-start": 3})
            answer = await http.post(CHAT, json=chat("org/chat"))
            assert answer.status_code == 200
            found.request = answer.headers["x-request-id"]
        await remember("end")

    asyncio.run(happen())
    return found


async def said(cluster: Cluster, *arguments: str) -> str:
    """Return what a command that succeeds prints."""
    told = await cluster.nebula(*arguments)
    assert told.code == 0, told.err
    return told.out


async def shown(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(await said(cluster, *arguments, "--json"))


async def seqs(cluster: Cluster, *arguments: str) -> list[int]:
    """Return the sequences that `nebula events` lists."""
    listed = await said(cluster, "events", *arguments, "--json")
    return [json.loads(line)["seq"] for line in listed.splitlines()]


async def first(cluster: Cluster, kind: type, identity: str) -> Record:
    """Return the oldest event of a kind about something."""
    return (await cluster.records(kind, identity=identity))[0]


async def just_after(cluster: Cluster, seq: int) -> str:
    """Return a time that lies between an event and the next one."""
    records = await cluster.records()
    middle = (records[seq - 1].time + records[seq].time) // 2
    return datetime.fromtimestamp(middle / 1e9, UTC).isoformat()


# The state at a moment


@pytest.mark.parametrize("moment", ["begun", "loaded", "scaled", "adapted", "full", "end"])
async def test_the_state_at_a_sequence_is_what_the_cluster_showed_then(
    cluster: Cluster, past: Past, moment: str
) -> None:
    assert await shown(cluster, "state", "--at", str(past.seq(moment))) == past.shown[moment]


async def test_the_state_at_a_time_is_that_after_the_last_event_stored_by_then(
    cluster: Cluster, past: Past
) -> None:
    for moment in ("loaded", "full"):
        time = await just_after(cluster, past.seq(moment))
        assert await shown(cluster, "state", "--at", time) == past.shown[moment]
        local = datetime.fromisoformat(time).astimezone().replace(tzinfo=None).isoformat()
        assert await shown(cluster, "state", "--at", local) == past.shown[moment]


async def test_without_a_moment_and_with_one_that_is_now_the_state_is_today_s(
    cluster: Cluster, past: Past
) -> None:
    async with cluster.http() as http:
        today = (await http.get("/admin/state")).json()
    assert await shown(cluster, "state") == today
    assert await shown(cluster, "state", "--at", "0s") == today
    assert today["seq"] >= past.seq("end")


async def test_the_state_for_people_names_the_moment_and_what_was_there(
    cluster: Cluster, past: Past
) -> None:
    seq = past.seq("full")
    told = await said(cluster, "state", "--at", str(seq))
    assert told.startswith(f"after event {seq}, 20")
    for words in ("org/chat", "chat-0", "chat-1", "poet", "here", "unschedulable", "no device has"):
        assert words in told
    early = await said(cluster, "state", "--at", str(past.seq("begun")))
    assert "here" in early
    assert "chat" not in early


# What changed


async def test_a_diff_names_what_came_what_became_otherwise_and_what_went(
    cluster: Cluster, past: Past
) -> None:
    one, two = past.seq("loaded"), past.seq("scaled")
    found = await shown(cluster, "diff", str(one), str(two))
    assert (found["from"], found["to"]) == (one, two)
    changes = {(each["sign"], each["id"], each["field"]): each for each in found["changes"]}
    assert set(changes) == {
        ("~", "chat", "replicas"),
        ("~", "chat", "placement"),
        ("+", "chat-1", ""),
    }
    replicas = changes["~", "chat", "replicas"]
    assert (replicas["before"], replicas["after"]) == ("1", "2")
    assert changes["~", "chat", "placement"]["after"] == "chat-0 on here/0, chat-1 on here/0"

    back = await shown(cluster, "diff", str(two), str(one))
    assert ("-", "chat-1") in {(each["sign"], each["id"]) for each in back["changes"]}
    told = await said(cluster, "diff", str(one), str(two))
    assert told.startswith(f"from event {one}, ")
    assert f"to event {two}, " in told
    assert "chat-1 on here/0" in told


async def test_a_diff_of_one_moment_goes_up_to_now(cluster: Cluster, past: Past) -> None:
    found = await shown(cluster, "diff", str(past.seq("begun")))
    assert found["to"] == await cluster.last_seq()
    came = {each["id"] for each in found["changes"] if each["sign"] == "+"}
    assert came == {"chat", "chat-0", "chat-1", "bad", "bad-0"}


async def test_between_a_moment_and_itself_nothing_changed(cluster: Cluster, past: Past) -> None:
    seq = past.seq("scaled")
    time = await just_after(cluster, seq)
    assert (await shown(cluster, "diff", str(seq), time))["changes"] == []
    assert "nothing changed" in await said(cluster, "diff", str(seq), str(seq))


# Events


async def test_all_events_are_listed_as_they_are_in_the_log(cluster: Cluster, past: Past) -> None:
    listed = [json.loads(line) for line in (await said(cluster, "events", "--json")).splitlines()]
    records = await cluster.records()
    assert len(listed) == len(records)
    for line, record in zip(listed, records, strict=True):
        assert (line["seq"], line["subject"]) == (record.seq, record.subject)
        assert (line.get("cause"), line.get("basis")) == (record.cause, record.basis)
        assert line.get("actor", "") == record.actor
        assert ("malformed" in line) == isinstance(record.content, Malformed)


@pytest.mark.parametrize(
    ("wanted", "subjects"),
    [
        (["chat"], ["model.chat.", "replica.chat-"]),
        (["model/chat"], ["model.chat.", "replica.chat-"]),
        (["chat-1"], ["replica.chat-1."]),
        (["model"], ["model."]),
        (["replica"], ["replica."]),
        (["node/here"], ["node.here."]),
        (["log"], ["log."]),
        (["bad", "node"], ["model.bad.", "replica.bad-", "node."]),
    ],
)
async def test_events_of_an_aggregate_are_its_own_and_a_model_s_are_its_replicas_too(
    cluster: Cluster, past: Past, wanted: list[str], subjects: list[str]
) -> None:
    begin = tuple(f"nebula.events.{each}" for each in subjects)
    expected = [each.seq for each in await cluster.records() if each.subject.startswith(begin)]
    assert expected
    assert await seqs(cluster, *wanted) == expected


async def test_events_are_selected_by_type_node_and_number_and_all_must_hold(
    cluster: Cluster, past: Past
) -> None:
    ready = [each.seq for each in await cluster.records(EngineReady)]
    plans = [each.seq for each in await cluster.records(ModelAssigned)]
    types = ("--type", "EngineReady", "--type", "ModelAssigned")
    assert await seqs(cluster, *types) == sorted(ready + plans)
    assert await seqs(cluster, *types, "-n", "2") == sorted(ready + plans)[-2:]
    here = await seqs(cluster, "--node", "here")
    assert {*ready, *plans} <= {*here}
    assert (await first(cluster, ModelLoadRequested, "chat")).seq not in here
    assert await seqs(cluster, "--node", "elsewhere") == []
    own = [each.seq for each in await cluster.records(EngineReady, identity="chat-1")]
    assert await seqs(cluster, "chat-1", "--type", "EngineReady", "--node", "here") == own


async def test_events_since_and_until_hold_both_ends_as_sequences_and_as_times(
    cluster: Cluster, past: Past
) -> None:
    one, two = past.seq("loaded"), past.seq("adapted")
    middle = list(range(one, two + 1))
    assert await seqs(cluster, "--since", str(one), "--until", str(two)) == middle
    assert await seqs(cluster, "--since", str(one), "-n", "3") == list(
        range(await cluster.last_seq() - 2, await cluster.last_seq() + 1)
    )
    begin, end = await just_after(cluster, one), await just_after(cluster, two)
    assert await seqs(cluster, "--since", begin, "--until", end) == middle[1:]


async def test_events_with_a_cause_are_all_that_it_led_to_and_nothing_else(
    cluster: Cluster, past: Past
) -> None:
    asked = await first(cluster, ModelScaleRequested, "chat")
    led = {asked.seq}
    for record in await cluster.records():
        if record.cause in led:
            led.add(record.seq)
    led.remove(asked.seq)
    assert {"ModelAssigned", "EngineStarted", "EngineReady"} <= {
        each.type for each in await cluster.records() if each.seq in led
    }
    assert await seqs(cluster, "--cause", str(asked.seq)) == sorted(led)


async def test_rejected_events_come_with_their_answers(cluster: Cluster, past: Past) -> None:
    answers = await cluster.records(EventRejected)
    rejected = [int(each.id) for each in answers]
    assert len(rejected) == 2
    assert await seqs(cluster, "--rejected") == sorted([*rejected, *(each.seq for each in answers)])
    told = await said(cluster, "events", "--rejected")
    assert "Expected `int`, got `str`" in told
    assert "there is no model 'nobody'" in told


async def test_events_for_people_say_what_happened_why_and_which_actor_wrote_it(
    cluster: Cluster, past: Past
) -> None:
    ready = await first(cluster, EngineReady, "chat-0")
    lines = (await said(cluster, "events", "chat", "-n", "1000")).splitlines()
    [line] = [each for each in lines if each.split()[0] == str(ready.seq)]
    assert "replica chat-0" in line
    assert "engine ready after" in line
    assert line.endswith(f" <- {ready.cause} ({ready.actor})")


@contextlib.asynccontextmanager
async def following(cluster: Cluster, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command that ends only when it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nebula.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, MARK: str(cluster.folder), "NEBULA_NATS_URL": cluster.nats_url},
        # What a shell runs in its background ignores SIGINT, and so does all that comes of it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_followed_log_gives_what_was_and_then_what_comes_each_once_until_ctrl_c(
    cluster: Cluster, past: Past
) -> None:
    before = await seqs(cluster, "chat", "--type", "ModelScaleRequested")
    line = ("events", "chat", "--type", "ModelScaleRequested", "--follow", "--json")
    async with following(cluster, *line) as process, asyncio.timeout(3 * PATIENCE):
        assert process.stdout is not None
        seen = [json.loads(await process.stdout.readline())["seq"] for _ in before]
        for _ in range(2):
            async with cluster.http() as http:
                assert (await http.patch("/admin/models/chat", json={"replicas": 2})).is_success
            seen.append(json.loads(await process.stdout.readline())["seq"])
        process.send_signal(signal.SIGINT)
        assert await process.stdout.read() == b""
        assert await process.wait() == 130
    assert seen == await seqs(cluster, "chat", "--type", "ModelScaleRequested")
    assert len(seen) == len(before) + 2
