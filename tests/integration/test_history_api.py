"""The past over HTTP: the state at a moment, and the log as pages and as a stream."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from nebula.events.intents import ModelScaleRequested
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

Shown = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", name="org/chat")
        async with cluster.http() as http:
            for replicas in (2, 1, 2):
                scaled = await http.patch("/admin/models/chat", json={"replicas": replicas})
                assert scaled.is_success
                await cluster.stands("chat")
        await cluster.publish_rejected("nebula.events.model.nobody.ModelUnloadRequested", b"")

    asyncio.run(load())


async def got(cluster: Cluster, path: str, **query: object) -> Any:
    async with cluster.http() as http:
        answer = await http.get(path, params={key: str(value) for key, value in query.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(cluster: Cluster, path: str, **query: str) -> tuple[str, str]:
    """Return the field and the message of an error."""
    async with cluster.http() as http:
        answer = await http.get(path, params=query)
    assert answer.status_code == 400
    error = answer.json()["error"]
    return error["param"], error["message"]


async def all_seqs(cluster: Cluster) -> list[int]:
    return [record.seq for record in await cluster.records()]


# The state


async def test_the_state_at_a_sequence_is_what_the_log_folds_to(cluster: Cluster) -> None:
    [first, *_] = await cluster.records(ModelScaleRequested, identity="chat")
    state = await got(cluster, "/admin/state", at=first.seq)
    assert state["seq"] == first.seq
    assert [model["id"] for model in state["models"]] == ["chat"]
    before = await got(cluster, "/admin/state", at=first.seq - 1)
    assert before["models"][0]["status"]["wanted"] == 1
    assert state["models"][0]["status"]["wanted"] == 2


async def test_without_a_moment_it_is_the_newest(cluster: Cluster) -> None:
    last = (await all_seqs(cluster))[-1]
    assert (await got(cluster, "/admin/state"))["seq"] == last
    assert (await got(cluster, "/admin/state", at="0s"))["seq"] == last


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("9999", "there is no sequence 9999 yet: the log ends with"),
        ("0", "there is no sequence 0: a log begins with 1"),
        ("2001-01-01", "that is before the first event: it was stored at"),
        ("soon", "'soon' is not a moment: give a sequence"),
    ],
)
async def test_a_moment_that_is_none_is_a_400_that_says_so(
    cluster: Cluster, at: str, message: str
) -> None:
    param, said = await refused(cluster, "/admin/state", at=at)
    assert param == "at"
    assert message in said


# Pages


async def test_pages_follow_each_other_without_gap_or_repeat(cluster: Cluster) -> None:
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await got(cluster, "/admin/events", after=after, limit=5)
        assert len(page["events"]) <= 5
        seen += [event["seq"] for event in page["events"]]
        after = page["next"]
    assert seen == await all_seqs(cluster)


async def test_filters_hold_on_pages(cluster: Cluster) -> None:
    scaled = [record.seq for record in await cluster.records(ModelScaleRequested, identity="chat")]
    page = await got(cluster, "/admin/events", aggregate="chat", type="ModelScaleRequested")
    assert [event["seq"] for event in page["events"]] == scaled
    caused = await got(cluster, "/admin/events", cause=scaled[0], type="ModelAssigned")
    assert [event["cause"] for event in caused["events"]] == [scaled[0]]
    rejected = await got(cluster, "/admin/events", rejected="true")
    assert [event["type"] for event in rejected["events"]] == [
        "ModelUnloadRequested",
        "EventRejected",
    ]


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ({"aggregat": "chat"}, "aggregat", "there is no filter 'aggregat'"),
        ({"type": "ModelPainted"}, "type", "not an event type of Nebula"),
        ({"cause": "x"}, "cause", "'x' is not a sequence"),
        ({"cause": "0"}, "cause", "'0' is not a sequence"),
        ({"cause": "9999"}, "cause", "there is no sequence 9999 yet: the log ends with"),
        ({"rejected": "maybe"}, "rejected", "'maybe' is neither true nor false"),
        ({"after": "-1"}, "after", "-1 is less than 0"),
        ({"after": "x"}, "after", "'x' is not a whole number"),
        ({"limit": "0"}, "limit", "0 is less than 1"),
        ({"after": "9999"}, "after", "9999 is more than"),
        ({"limit": "100000"}, "limit", "100000 is more than"),
    ],
)
async def test_a_bad_query_is_a_400_that_names_it(
    cluster: Cluster, query: dict[str, str], param: str, message: str
) -> None:
    named, said = await refused(cluster, "/admin/events", **query)
    assert named == param
    assert message in said


# The stream


async def events(answer: httpx.Response) -> AsyncGenerator[tuple[int, str, Shown], None]:
    """Yield what a stream of server-sent events says: (id, event, data)."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line and "data" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


async def streamed(
    cluster: Cluster, count: int, last: int | None = None, query: str = ""
) -> list[int]:
    """Read so many events of a stream, then go away."""
    headers = {"Accept": "text/event-stream"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    seqs = []
    async with (
        asyncio.timeout(PATIENCE),
        cluster.http() as http,
        http.stream("GET", f"/admin/events{query}", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async with aclosing(events(answer)) as coming:
            async for seq, kind, data in coming:
                assert (data["seq"], data["type"]) == (seq, kind)
                seqs.append(seq)
                if len(seqs) == count:
                    return seqs
    return seqs


async def test_a_stream_goes_on_after_the_event_it_ended_with(cluster: Cluster) -> None:
    expected = await all_seqs(cluster)
    first = await streamed(cluster, 7, query="?after=0")
    rest = await streamed(cluster, len(expected) - 7, last=first[-1], query="?after=0")
    assert first + rest == expected


async def test_a_stream_gives_what_comes(cluster: Cluster) -> None:
    last = (await all_seqs(cluster))[-1]
    waiting = asyncio.create_task(
        streamed(cluster, 2, last=last, query="?type=ModelScaleRequested,ModelAssigned")
    )
    async with cluster.http() as http:
        assert (await http.patch("/admin/models/chat", json={"replicas": 3})).is_success
    seqs = await waiting
    records = {record.seq: record for record in await cluster.records()}
    assert [records[seq].type for seq in seqs] == ["ModelScaleRequested", "ModelAssigned"]
    assert records[seqs[1]].cause == seqs[0]


async def test_a_stream_after_an_event_that_is_not_there_yet_is_refused(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.get(
            "/admin/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "99999"}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Last-Event-ID"
