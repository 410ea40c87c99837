"""Streams that have nothing to say for a while: in line, while a model starts, at a long prompt."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.integration.asking import (
    CHAT,
    COMPLETIONS,
    Heard,
    chat,
    error,
    listen,
    prompt,
    resume,
    stream,
    words,
)
from tests.integration.cluster import Cluster
from tests.integration.proxies import haproxy, nginx
from tests.ports import free_port

pytestmark = pytest.mark.anyio

SECOND = free_port()
TALKATIVE = "tests.integration.talkative"
SMALL = {"memory": "64MiB"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two gateways that find one second a long silence."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        for name in ("nats", "router", "node"):
            cluster.start(name)
        for name, port in (("gateway", cluster.port), ("gateway-2", SECOND)):
            line = [sys.executable, "-m", TALKATIVE, "gateway", "--nats", cluster.nats_url]
            cluster.program(name, *line, "--port", str(port))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that is ready."""
    await cluster.ready()
    async with cluster.http() as client:
        yield client


async def load(cluster: Cluster, model: str, **fields: Any) -> None:
    await cluster.load(model, **{**SMALL, **fields})


def slow_start(**options: float) -> dict[str, float]:
    return {f"simulate-{name.replace('_', '-')}": value for name, value in options.items()}


async def test_a_long_prompt_has_its_head_and_comments_before_its_first_token(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await load(cluster, "prefill", options=slow_start(first_token=4))
    async with http.stream("POST", CHAT, json=chat("prefill", stream=True)) as answer:
        headers = answer.headers
        assert (await cluster.engine_says("prefill-0"))["finished"] == 0
        heard = await listen(answer)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert heard.comments >= 1
    assert heard.whole
    quick = await http.post(CHAT, json=chat("prefill"))
    assert not {"cache-control", "x-accel-buffering"} & set(quick.headers)


async def test_in_line_for_a_full_replica(cluster: Cluster, http: httpx.AsyncClient) -> None:
    await load(cluster, "full", max_in_flight=1, options=slow_start(first_token=2.5))
    first, second = await asyncio.gather(stream(http, chat("full")), stream(http, chat("full")))
    assert first.whole
    assert second.whole
    assert first.comments + second.comments >= 1


async def test_while_a_model_is_started_on_request(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await load(cluster, "cold", on_request=True, stands="", options=slow_start(start=3))
    heard = await stream(http, chat("cold"))
    assert heard.whole
    assert heard.comments >= 1


async def test_amid_a_stream_whatever_has_ids_and_for_the_official_client(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await load(cluster, "dozes", options=slow_start(token=2.5, tokens=3))
    for resumable in ("no", "true"):
        heard = await stream(http, chat("dozes", prompt(1)), X_Resumable=resumable)
        assert heard.text == words(1, 3)
        assert heard.comments >= 1
    client = openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
    for extra in ({}, {"X-Resumable": "true"}):
        text = ""
        async for chunk in await client.chat.completions.create(
            model="dozes",
            messages=[{"role": "user", "content": prompt(2)}],
            stream=True,
            extra_headers=extra,
        ):
            text += chunk.choices[0].delta.content or ""
        assert text == words(2, 3)
    await client.close()


async def test_while_an_answer_goes_on_elsewhere(cluster: Cluster, http: httpx.AsyncClient) -> None:
    await load(cluster, "falls", options=slow_start(token=0.2, tokens=12, start=3))
    heard = Heard()
    streaming = asyncio.create_task(stream(http, chat("falls", prompt(3)), heard))

    async def begun() -> bool:
        return len(heard.chunks) >= 3

    await cluster.poll(begun, "the stream has begun")
    before = heard.comments
    os.kill((await cluster.engine("falls-0")).pid, signal.SIGKILL)
    await streaming
    assert heard.text == words(3, 12)
    assert heard.comments - before >= 1


@pytest.mark.parametrize("choices", [1, 2])  # with two, the engine is asked for no token ids
async def test_a_client_that_is_cut_off_in_the_silence_comes_back_by_the_id_of_its_head(
    cluster: Cluster, http: httpx.AsyncClient, choices: int
) -> None:
    await cluster.ready(SECOND)
    if choices == 1:
        await load(cluster, "cut", max_in_flight=1, options=slow_start(first_token=4))
    ahead = asyncio.create_task(stream(http, chat("cut")))

    async def busy() -> bool:
        return (await cluster.engine_says("cut-0"))["running"] == 1

    await cluster.poll(busy, "the one ahead is under way")
    body = chat("cut", prompt(4), stream=True, n=choices)
    resumable = {"X-Resumable": "true"}
    async with http.stream("POST", CHAT, json=body, headers=resumable) as answer:
        identity = answer.headers["x-request-id"]
    async with cluster.http(SECOND) as other:
        there, here = await asyncio.gather(resume(other, identity), resume(http, identity))
    assert there.comments >= 1
    assert there.whole
    assert there.raw == here.raw
    assert there.event_ids == list(range(1, len(there.event_ids) + 1))
    await ahead


async def test_what_is_refused_after_the_head_is_an_error_event_and_before_it_a_status(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await load(cluster, "late", options=slow_start(first_token=30))
    soon = {"X-Request-Timeout": "0.3"}
    answer = await http.post(CHAT, json=chat("late", stream=True), headers=soon)
    assert error(answer, 504)["code"] == "timeout"
    heard = await stream(http, chat("late"), X_Request_Timeout="2.5")
    assert heard.comments >= 1
    assert heard.error is not None
    assert heard.error["code"] == "timeout"
    answer = await http.post(CHAT, json=chat("late"), headers={"X-Request-Timeout": "2.5"})
    assert error(answer, 504)["code"] == "timeout", "nothing but a stream has an early head"


async def test_what_an_engine_refuses_after_the_head_is_its_own_error_as_an_event(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await load(cluster, "wrong", on_request=True, stands="", options=slow_start(start=3))
    body = {"model": "wrong", "prompt": "a", "max_tokens": "many"}
    heard = await stream(http, body, path=COMPLETIONS)
    assert heard.comments >= 1
    assert heard.error is not None
    direct = error(await http.post(COMPLETIONS, json=body), 400)
    assert heard.error == direct
    assert not heard.whole


@pytest.mark.parametrize("front", ["nginx", "haproxy"])
async def test_a_proxy_bears_a_silence_that_is_longer_than_its_patience(
    cluster: Cluster, http: httpx.AsyncClient, tmp_path: Path, front: str
) -> None:
    """Three seconds stand for nginx's minute, as one does for the gateway's ten."""
    model = f"behind-{front}"
    await load(cluster, model, options=slow_start(first_token=5, token=5, tokens=2))
    if front == "nginx":
        proxy = nginx(tmp_path, cluster.port, location="proxy_read_timeout 3s;")
    else:
        proxy = haproxy(tmp_path, cluster.port, timeout=3000)
    with proxy as port:
        async with cluster.http(port) as through:
            heard, plain = await asyncio.gather(
                stream(through, chat(model, prompt(5))), through.post(CHAT, json=chat(model))
            )
    assert heard.whole
    assert heard.text == words(5, 2)
    assert heard.comments >= 1
    assert plain.status_code == 504, "what can't have comments is given up"


async def test_a_stream_of_events_is_not_silent_where_what_happens_is_not_selected(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    async def happens() -> None:
        for number in range(40):
            await load(cluster, f"e{number}", replicas=0, stands="")
            await asyncio.sleep(0.2)

    happening = asyncio.create_task(happens())
    query = {"type": "NodeRegistered", "after": (await http.get("/ready")).json()["seq"]}
    sse = {"accept": "text/event-stream"}
    async with http.stream("GET", "/admin/events", params=query, headers=sse) as answer:
        async with asyncio.timeout(15):
            lines = answer.aiter_lines()
            assert await anext(lines) == ": still here"
            assert await anext(lines) == "", "a comment, and not an event without data"
        assert not happening.done()
    happening.cancel()
    await asyncio.gather(happening, return_exceptions=True)
