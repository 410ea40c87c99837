"""Answers that are taken up again: after a broken connection, a dead gateway, or asked for twice.

Two gateways stand side by side. A process that a test kills is started again for the next test.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import nats
import openai
import pytest

from nebula.actors.gateway.resumption import MAX_PAST
from nebula.events.usage import UsageRecord
from nebula.store.streams import CLAIMS, INFERENCE
from tests.integration.asking import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Heard,
    chat,
    error,
    prompt,
    resume,
    said,
    stream,
    words,
)
from tests.integration.cluster import Cluster
from tests.integration.test_usage import recorded
from tests.ports import free_port

pytestmark = pytest.mark.anyio

SECOND = free_port()
TOKENS = 40
SLOW = {"simulate-token": 0.05, "simulate-tokens": TOKENS}
SMALL = {"memory": "64MiB"}
Gateways = tuple[httpx.AsyncClient, httpx.AsyncClient]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two gateways."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start_all()
        cluster.start("gateway-2", "--port", str(SECOND))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def gateways(cluster: Cluster) -> AsyncIterator[Gateways]:
    """Clients of the two gateways, which both serve."""
    for name in ("gateway", "gateway-2"):
        if not cluster.runs(name):
            cluster.again(name)
    for port in (None, SECOND):
        await cluster.ready(port)
    async with cluster.http() as one, cluster.http(SECOND) as two:
        yield one, two


async def knows(http: httpx.AsyncClient, cluster: Cluster, model: str) -> None:
    """Wait until a gateway has heard that a model is ready."""

    async def so() -> bool:
        answer = await http.get(f"/admin/models/{model}")
        return answer.status_code == 200 and answer.json()["status"]["phase"] == "ready"

    await cluster.poll(so, f"the gateway knows {model}")


async def load(cluster: Cluster, gateways: Gateways, model: str, **fields: Any) -> None:
    await cluster.load(model, **{**SMALL, **fields})
    for http in gateways:
        await knows(http, cluster, model)


async def begun(cluster: Cluster, heard: Heard, number: int = 5) -> None:
    """Wait until a stream has said something."""

    async def so() -> bool:
        return len(heard.chunks) >= number

    await cluster.poll(so, "the stream has begun")


@contextlib.asynccontextmanager
async def broken_off(
    http: httpx.AsyncClient, cluster: Cluster, body: dict[str, Any], **headers: str
) -> AsyncIterator[Heard]:
    """Hear the beginning of a stream, then leave it."""
    heard = Heard()
    streaming = asyncio.create_task(stream(http, body, heard, **headers))
    await begun(cluster, heard)
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    yield heard


async def counts(cluster: Cluster, model: str, **expected: int) -> None:
    """Wait until an engine has come to these counts."""

    async def so() -> bool:
        at = await cluster.engine_says(f"{model}-0")
        return all(at[key] == expected[key] for key in expected)

    await cluster.poll(so, f"the engine of {model} has {expected}")


async def test_a_resumable_stream_tells_where_it_is_and_a_usual_one_has_no_ids(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, _ = gateways
    await load(cluster, gateways, "ids")
    usual = await stream(one, chat("ids"))
    assert usual.event_ids == []
    resumable = await stream(one, chat("ids"), X_Resumable="true")
    assert resumable.event_ids == list(range(1, len(resumable.event_ids) + 1))
    assert resumable.text == usual.text
    assert len(resumable.event_ids) == len(resumable.chunks) + 1, "the last one is of [DONE]"


async def test_a_client_that_comes_back_gets_exactly_the_rest_while_it_runs_and_when_it_has_ended(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "rest", options=SLOW)
    body = chat("rest", prompt(1), stream_options={"include_usage": True})
    async with broken_off(one, cluster, body, X_Resumable="true") as heard:
        last = heard.event_ids[-1]
        during = await resume(two, heard.request, last)
        after = await resume(one, heard.request, last)
        whole = await resume(two, heard.request)
    assert heard.event_ids + during.event_ids == whole.event_ids
    assert heard.raw + during.raw == whole.raw
    assert during.raw == after.raw
    assert whole.whole
    assert whole.text == words(1, TOKENS)
    assert len(whole.ids) == whole.roles == len(whole.ends) == len(whole.usage) == 1
    await counts(cluster, "rest", running=0, finished=1, aborted=0)
    assert await used(cluster, [heard]) == {heard.request: TOKENS}


async def test_a_long_answer_is_given_again_as_it_was_given(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "long", options={"simulate-tokens": 8_000})
    first = await stream(one, chat("long", prompt(1)), X_Resumable="true")
    assert len(first.raw) > MAX_PAST
    whole = await resume(two, first.request)
    assert whole.raw == first.raw
    rest = await resume(two, first.request, first.event_ids[-3])
    assert rest.event_ids == first.event_ids[-2:]


async def test_an_event_that_a_stream_never_had_is_refused_once_that_is_sure(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "beyond", options=SLOW)
    async with broken_off(one, cluster, chat("beyond"), X_Resumable="true") as heard:
        address, late = f"/v1/streams/{heard.request}", {"Last-Event-ID": "999"}
        running = await two.get(address, headers=late)
        assert running.status_code == 200, "it might have come yet"
        assert running.text.startswith(
            'data: {"error":{"message":"the stream has ended and has no event'
        )
        last = (await resume(two, heard.request)).event_ids[-1]
    refused = error(await two.get(address, headers=late), 400)
    assert refused["code"] == "unknown_event"
    assert refused["message"].endswith(f"has no such event, it ends with {last}")
    assert (await two.get(address, headers={"Last-Event-ID": str(last)})).text == ""
    for number in ("9" * 19, "9" * 5000, "-1", "1.5"):
        answer = await two.get(address, headers={"Last-Event-ID": number})
        assert "must be the id of an event" in error(answer, 400)["message"]


async def test_a_gateway_that_dies_takes_no_resumable_answer_with_it(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "orphan", options=SLOW)
    heard = [Heard() for _ in range(5)]
    streams = [
        asyncio.create_task(stream(one, chat("orphan", prompt(n)), heard[n], X_Resumable="true"))
        for n in range(5)
    ]
    for each in heard:
        await begun(cluster, each)
    cluster.kill("gateway")
    ends = await asyncio.gather(*streams, return_exceptions=True)
    assert all(isinstance(end, httpx.HTTPError) for end in ends), ends
    rests = await asyncio.gather(*(resume(two, each.request, each.event_ids[-1]) for each in heard))
    for number, (each, rest) in enumerate(zip(heard, rests, strict=True)):
        assert rest.whole
        assert each.text + rest.text == words(number, TOKENS)
        assert rest.event_ids[0] == each.event_ids[-1] + 1
        assert each.ids == rest.ids
    await counts(cluster, "orphan", running=0, finished=5, aborted=0)
    await asyncio.gather(*(resume(two, each.request) for each in heard))
    assert await used(cluster, heard) == {each.request: TOKENS for each in heard}


async def used(cluster: Cluster, heard: Sequence[Heard]) -> dict[str, int]:
    """Wait until each answer has its usage record; return the tokens of each, that has just one."""
    asked = {each.request for each in heard}
    found: list[UsageRecord] = []

    async def so() -> bool:
        found[:] = [each for each in await recorded(cluster) if each.id in asked]
        return {each.id for each in found} == asked

    await cluster.poll(so, f"records of {len(asked)} answers")
    assert len(found) == len(asked), "none is recorded twice"
    return {each.id: each.completion for each in found}


async def test_without_the_opt_in_a_dead_gateway_s_generation_is_ended_for_it(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "usual", options={**SLOW, "simulate-tokens": 1000})
    heard = Heard()
    streaming = asyncio.create_task(stream(one, chat("usual"), heard))
    await begun(cluster, heard)
    cluster.kill("gateway")
    await asyncio.gather(streaming, return_exceptions=True)
    await counts(cluster, "usual", running=0, aborted=1)
    assert "no answer" in error(await two.get(f"/v1/streams/{heard.request}"), 404)["message"]


async def test_a_client_that_leaves_ends_its_generation_unless_it_may_come_back(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "leaves", options={**SLOW, "simulate-tokens": 100})
    async with broken_off(one, cluster, chat("leaves")):
        await counts(cluster, "leaves", running=0, finished=0, aborted=1)
    async with broken_off(one, cluster, chat("leaves"), X_Resumable="true") as heard:
        await counts(cluster, "leaves", running=0, finished=1, aborted=1)
        assert (await resume(two, heard.request)).text == " ".join(["hello"] * 100)


async def test_a_resumable_stream_goes_on_elsewhere_too_and_is_given_again_as_it_was_given(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "moves", options=SLOW, replicas=2)
    body = chat("moves", prompt(1), stream_options={"include_usage": True})
    heard = Heard()
    streaming = asyncio.create_task(stream(one, body, heard, X_Resumable="true"))
    await begun(cluster, heard)
    resumed = asyncio.create_task(resume(two, heard.request))
    for number in range(2):
        if (await cluster.engine_says(f"moves-{number}"))["running"]:
            os.kill((await cluster.engine(f"moves-{number}")).pid, signal.SIGKILL)
            break
    await streaming
    assert heard.whole
    assert heard.text == words(1, TOKENS)
    assert [usage["completion_tokens"] for usage in heard.usage] == [TOKENS]
    assert (await resumed).raw == heard.raw
    assert (await resume(two, heard.request)).raw == heard.raw
    assert (await resume(one, heard.request, 10)).event_ids[0] == 11


async def test_an_error_that_ends_an_answer_also_ends_the_resumed_one(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "fails", options=SLOW)
    heard = Heard()
    body = chat("fails", stop=["\n"])
    streaming = asyncio.create_task(stream(one, body, heard, X_Resumable="true"))
    await begun(cluster, heard)
    os.kill((await cluster.engine("fails-0")).pid, signal.SIGKILL)
    await streaming
    assert heard.error is not None
    assert "can't go on elsewhere" in heard.error["message"]
    again = await resume(two, heard.request, heard.event_ids[-1])
    assert (again.chunks, again.error) == ([], heard.error)


async def test_after_gateway_and_engine_have_died_a_client_that_comes_back_is_told_so(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "both", options={**SLOW, "simulate-start": 3})
    heard = Heard()
    streaming = asyncio.create_task(stream(one, chat("both"), heard, X_Resumable="true"))
    await begun(cluster, heard)
    cluster.kill("gateway")
    os.kill((await cluster.engine("both-0")).pid, signal.SIGKILL)
    await asyncio.gather(streaming, return_exceptions=True)
    rest = await resume(two, heard.request, heard.event_ids[-1])
    assert not rest.whole
    assert rest.error is not None
    assert "failed" in rest.error["message"]


async def test_an_unknown_stream_and_a_place_that_is_none_are_refused(gateways: Gateways) -> None:
    for http in gateways:
        for unknown in ("unknown", "a.b", "x" * 200):
            told = error(await http.get(f"/v1/streams/{unknown}"), 404)
            assert told["code"] == "unknown_stream"
        for wrong in ("-1", "last", "1.5"):
            answer = await http.get("/v1/streams/unknown", headers={"Last-Event-ID": wrong})
            assert "Last-Event-ID" in error(answer, 400)["message"]


async def test_for_an_answer_that_is_forgotten_the_client_is_told_and_its_key_runs_no_other(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "forgotten")
    key = {"Idempotency-Key": "forgotten"}
    first = await one.post(CHAT, json=chat("forgotten"), headers=key)
    client = await nats.connect(cluster.url())
    try:
        await client.jetstream().purge_stream(INFERENCE)
    finally:
        await client.close()
    await one.post(CHAT, json=chat("forgotten"))
    again = await two.get(f"/v1/streams/{first.headers['x-request-id']}")
    assert error(again, 404)["code"] == "unknown_stream"
    twice = await two.post(CHAT, json=chat("forgotten"), headers=key)
    assert "no longer kept" in error(twice, 404)["message"]
    await counts(cluster, "forgotten", running=0, finished=2, aborted=0)


# The same key twice


async def test_two_requests_with_one_key_at_once_start_one_generation_and_get_the_same_bytes(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "once", options=SLOW)
    body = chat("once", prompt(1), stream_options={"include_usage": True})
    first, second = await asyncio.gather(
        *(stream(http, body, Idempotency_Key="once-1") for http in (one, two))
    )
    assert first.whole
    assert first.text == words(1, TOKENS)
    assert first.raw == second.raw
    assert first.request == second.request
    later = await stream(two, body, Idempotency_Key="once-1")
    assert later.raw == first.raw
    await counts(cluster, "once", running=0, finished=1, aborted=0)


async def test_an_answer_is_its_owner_s_alone(cluster: Cluster, gateways: Gateways) -> None:
    one, two = gateways
    await load(cluster, gateways, "owned")
    key = {"Idempotency-Key": "order-1"}
    mine, theirs = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer theirs"}
    first = await one.post(CHAT, json=chat("owned", "mine"), headers=key | mine)
    identity = first.headers["x-request-id"]
    assert len(identity) == 32
    other = await two.post(CHAT, json=chat("owned", "theirs"), headers=key | theirs)
    assert other.status_code == 200
    assert other.headers["x-request-id"] != identity
    for headers in (theirs, {}):
        answer = await two.get(f"/v1/streams/{identity}", headers=headers)
        assert error(answer, 404)["code"] == "unknown_stream"
    again = await two.get(f"/v1/streams/{identity}", headers=mine)
    assert again.content == first.content
    repeated = await two.post(CHAT, json=chat("owned", "mine"), headers=key | mine)
    assert repeated.content == first.content
    assert repeated.headers["x-request-id"] == identity
    await counts(cluster, "owned", running=0, finished=2, aborted=0)


async def test_large_requests_push_out_no_claim(cluster: Cluster, gateways: Gateways) -> None:
    one, two = gateways
    await load(cluster, gateways, "large")
    first = await one.post(CHAT, json=chat("large"), headers={"Idempotency-Key": "small"})
    client = await nats.connect(cluster.url())
    try:
        before = (await client.jetstream().stream_info(CLAIMS)).state.bytes
        for number in range(3):
            body = chat("large", "x" * 2_000_000)
            answer = await one.post(CHAT, json=body, headers={"Idempotency-Key": f"l-{number}"})
            assert answer.status_code == 200
        after = (await client.jetstream().stream_info(CLAIMS)).state.bytes
    finally:
        await client.close()
    assert 0 < after - before < 3 * 2000
    again = await two.get(f"/v1/streams/{first.headers['x-request-id']}")
    assert again.status_code == 200


async def test_a_key_serves_whole_answers_completions_and_embeddings_too(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "keyed", options=SLOW)
    await load(cluster, gateways, "keyed-embed", task="embedding")
    for path, body in (
        (CHAT, chat("keyed")),
        (COMPLETIONS, {"model": "keyed", "prompt": "hello"}),
        (EMBEDDINGS, {"model": "keyed-embed", "input": "hello"}),
    ):
        headers = {"Idempotency-Key": f"key of {path}"}
        first, second = await asyncio.gather(
            *(http.post(path, json=body, headers=headers) for http in (one, two))
        )
        assert (first.status_code, second.status_code) == (200, 200), first.text
        assert first.content == second.content
        assert first.headers["content-type"] == second.headers["content-type"]
    await counts(cluster, "keyed", running=0, finished=2, aborted=0)
    await counts(cluster, "keyed-embed", running=0, finished=1, aborted=0)


async def test_a_key_belongs_to_one_body_and_to_one_user(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "bound")
    key = {"Idempotency-Key": "bound"}
    assert said(await one.post(CHAT, json=chat("bound", max_tokens=1), headers=key)) == "hello"
    told = error(await two.post(CHAT, json=chat("bound", max_tokens=2), headers=key), 422)
    assert told["code"] == "idempotency_key_reused"
    other = {**key, "Authorization": "Bearer somebody else"}
    answer = await two.post(CHAT, json=chat("bound", max_tokens=2), headers=other)
    assert said(answer) == "hello hello"


async def test_after_a_refusal_the_same_key_works_again(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "full", max_in_flight=1, max_waiting=0)
    await cluster.tell_engine("full-0", stall=True)
    first = asyncio.create_task(one.post(CHAT, json=chat("full", max_tokens=1)))
    await counts(cluster, "full", running=1)
    body, key = chat("full", "again", max_tokens=1), {"Idempotency-Key": "full"}
    for http in (one, two):
        assert error(await http.post(CHAT, json=body, headers=key), 429)["code"] == "queue_full"
    await cluster.tell_engine("full-0", stall=False)
    assert said(await first) == "hello"

    answers = []

    async def works_again() -> bool:
        """The client may hear that the first has ended before the router does."""
        answers.append(await one.post(CHAT, json=body, headers=key))
        return answers[-1].status_code == 200

    await cluster.poll(works_again, "the key works again")
    answers.append(await two.post(CHAT, json=body, headers=key))
    assert [said(answer) for answer in answers[-2:]] == ["again", "again"]
    assert answers[-2].content == answers[-1].content
    await counts(cluster, "full", running=0, finished=2, aborted=0)


async def test_after_a_time_that_was_too_short_the_same_key_works_again(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "short")
    await cluster.tell_engine("short-0", stall=True)
    body, key = chat("short", max_tokens=1), {"Idempotency-Key": "short"}
    headers = {**key, "X-Request-Timeout": "0.5"}
    error(await one.post(CHAT, json=body, headers=headers), 504)
    await cluster.tell_engine("short-0", stall=False)
    assert said(await two.post(CHAT, json=body, headers=key)) == "hello"


async def test_what_the_engine_itself_refuses_is_given_again_as_it_was(
    cluster: Cluster, gateways: Gateways
) -> None:
    one, two = gateways
    await load(cluster, gateways, "wrong")
    body, key = chat("wrong", max_tokens=0), {"Idempotency-Key": "wrong"}
    answers = [await http.post(CHAT, json=body, headers=key) for http in (one, two)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].content == answers[1].content


async def test_a_stream_that_waits_can_be_resumed_before_its_first_event(
    gateways: Gateways, cluster: Cluster
) -> None:
    await load(
        cluster, gateways, "late", options={"simulate-first-token": 14, "simulate-tokens": 3}
    )
    one, two = gateways
    headers = {"X-Resumable": "true"}
    body = chat("late", "one two three", stream=True)
    async with one.stream("POST", CHAT, json=body, headers=headers, timeout=60) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": waiting", "before the engine has said anything"
        identity = answer.headers["x-request-id"]
    assert answer.headers["x-accel-buffering"] == "no"
    heard = await resume(two, identity)
    assert (heard.text, heard.event_ids[0]) == ("one two three", 1)


async def test_openai_s_client_passes_over_the_comments_of_a_stream_that_waits(
    gateways: Gateways, cluster: Cluster
) -> None:
    await load(
        cluster, gateways, "slow", options={"simulate-first-token": 12, "simulate-tokens": 2}
    )
    base = f"http://127.0.0.1:{cluster.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="-", max_retries=0, timeout=60) as client:
        stream = await client.chat.completions.create(**chat("slow", "one two", stream=True))
        assert [chunk.choices[0].delta.content or "" async for chunk in stream][1:] == [
            "one",
            " two",
        ]


async def test_what_fails_after_an_early_head_ends_in_an_error_event(
    gateways: Gateways, cluster: Cluster
) -> None:
    await load(cluster, gateways, "hung", options={"simulate-first-token": 60})
    body = chat("hung", "hello", stream=True)
    headers = {"X-Request-Timeout": "12"}
    async with gateways[0].stream("POST", CHAT, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines() if line]
    assert set(lines[:-1]) == {": waiting"}
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
