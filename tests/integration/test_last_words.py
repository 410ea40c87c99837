"""What clients get of a gateway, or of all of `nebula up`, that is told to stop."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.asking import (
    CHAT,
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
from tests.ports import free_port

pytestmark = pytest.mark.anyio

SMALL = {"memory": "64MiB"}
STUCK = {"simulate-first-token": 120}
HOUR = 3600
"""Seconds: what ends before them does not wait for them."""
SLOW = {"simulate-token": 0.1, "simulate-tokens": 30}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Cluster, int]]:
    """A cluster with a second gateway that gives requests no more than a second."""
    cluster, port = Cluster(tmp_path), free_port()
    try:
        for name in ("nats", "router", "node"):
            cluster.start(name)
        cluster.start("gateway", "--grace", str(HOUR))
        cluster.start("gateway-2", "--port", str(port), "--grace", "1")
        yield cluster, port
    finally:
        cluster.close()


async def running(cluster: Cluster, replica: str, count: int) -> None:
    """Wait until an engine works on so many requests."""

    async def so() -> bool:
        return (await cluster.engine_says(replica))["running"] == count

    await cluster.poll(so, f"{replica} has {count} requests")


def told_to_stop(cluster: Cluster, name: str, times: int = 1) -> None:
    for _ in range(times):
        os.kill(cluster.pid(name), signal.SIGTERM)
        time.sleep(0.1)


def logged(cluster: Cluster, file: str) -> str:
    return "".join(path.read_text() for path in cluster.folder.rglob(file))


async def test_up_lets_requests_end_then_gives_the_rest_an_error_in_the_form_of_their_answer(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--grace", "6")
    await cluster.ready()
    await cluster.load("slow", options=SLOW, **SMALL)
    await cluster.load("endless", options=SLOW | {"simulate-tokens": 4000}, **SMALL)
    await cluster.load("stuck", options=STUCK, **SMALL)
    await cluster.load("asleep", on_request=True, options={"simulate-start": 60}, stands="")
    async with cluster.http() as http, cluster.http() as late:
        asking = {
            "whole": asyncio.create_task(stream(http, chat("slow", prompt(1)))),
            "json": asyncio.create_task(http.post(CHAT, json=chat("stuck"))),
            "head": asyncio.create_task(http.post(CHAT, json=chat("stuck", stream=True))),
            "cold": asyncio.create_task(http.post(CHAT, json=chat("asleep"))),
        }
        heard = Heard()
        asking["amid"] = asyncio.create_task(stream(http, chat("endless", prompt(2)), heard))
        following = asyncio.create_task(_follow(late))
        await running(cluster, "slow-0", 1)
        await running(cluster, "endless-0", 1)
        await running(cluster, "stuck-0", 2)
        ending = asyncio.create_task(asyncio.to_thread(cluster.stop, "up", 60))

        async def stopping() -> bool:
            return (await late.get("/ready")).status_code == 503

        await cluster.poll(stopping, "/ready says so")
        assert "stopping" in error(await late.get("/ready"), 503)["message"]
        refused = await late.post(CHAT, json=chat("slow"))
        assert "stopping" in error(refused, 503)["message"]
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        assert (await late.get("/health")).status_code == 200
        got: dict[str, Any] = dict(zip(asking, await asyncio.gather(*asking.values()), strict=True))
        assert await following, "a stream of events ends whole"
        assert await ending == 0
    assert got["whole"].whole
    assert got["whole"].text == words(1, 30)
    for name in ("json", "head", "cold"):
        assert error(got[name], 503)["message"] == "the gateway is stopping"
        assert "retry-after" in got[name].headers
    assert heard.chunks
    assert heard.error is not None
    assert heard.error["message"] == "the gateway is stopping"
    assert "Traceback" not in logged(cluster, "gateway.log")


async def _follow(http: httpx.AsyncClient) -> bool:
    sse = {"accept": "text/event-stream"}
    async with http.stream("GET", "/admin/events", headers=sse, timeout=60) as answer:
        async for _ in answer.aiter_lines():
            pass
    return True


async def test_a_resumable_answer_goes_on_at_another_gateway(pair: tuple[Cluster, int]) -> None:
    cluster, port = pair
    await cluster.ready()
    await cluster.ready(port)
    await cluster.load("long", options={"simulate-token": 0.1, "simulate-tokens": 60}, **SMALL)
    async with cluster.http() as one, cluster.http(port) as two:
        await _known(cluster, two, "long")
        heard = Heard()
        own = asyncio.create_task(stream(two, chat("long", prompt(3)), heard, X_Resumable="true"))

        async def begun() -> bool:
            return len(heard.chunks) > 3

        await cluster.poll(begun, "it has begun")
        given_again = Heard()
        again = asyncio.create_task(resume(two, heard.request, heard=given_again))

        async def begun_again() -> bool:
            return bool(given_again.chunks)

        await cluster.poll(begun_again, "it is given again")
        told_to_stop(cluster, "gateway-2")
        await own
        await again
        for cut in (heard, given_again):
            assert cut.error is not None
            assert f"GET /v1/streams/{heard.request}" in cut.error["message"]
        rest = await resume(one, heard.request, heard.event_ids[-1])
        assert heard.event_ids + rest.event_ids == list(range(1, rest.event_ids[-1] + 1))
        assert heard.text + rest.text == words(3, 60)
        assert rest.whole


async def _known(cluster: Cluster, http: httpx.AsyncClient, model: str) -> None:
    async def so() -> bool:
        answer = await http.get(f"/admin/models/{model}")
        return answer.status_code == 200 and answer.json()["status"]["phase"] == "ready"

    await cluster.poll(so, f"the gateway knows {model}")


async def test_a_second_signal_ends_a_gateway_at_once_with_words(
    pair: tuple[Cluster, int],
) -> None:
    cluster, _ = pair
    await cluster.ready()
    await cluster.load("stuck", options=STUCK, **SMALL)
    async with cluster.http() as http:
        asking = asyncio.create_task(http.post(CHAT, json=chat("stuck")))
        await running(cluster, "stuck-0", 1)
        await asyncio.to_thread(told_to_stop, cluster, "gateway", 2)
        assert error(await asking, 503)["message"] == "the gateway is stopping"
        await asyncio.to_thread(cluster.stop, "gateway")


async def test_a_second_signal_ends_all_of_up_at_once(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--grace", str(HOUR))
    await cluster.ready()
    await cluster.load("stuck", options=STUCK, **SMALL)
    [engine] = cluster.engine_processes()
    async with cluster.http() as http:
        asking = asyncio.create_task(http.post(CHAT, json=chat("stuck")))
        await running(cluster, "stuck-0", 1)
        engine.suspend()  # it takes no SIGTERM now
        await asyncio.to_thread(told_to_stop, cluster, "up", 2)
        with contextlib.suppress(httpx.TransportError):
            error(await asking, 503)

        async def gone() -> bool:
            return not cluster.pids()

        await asyncio.to_thread(cluster.ended, "up")
        await cluster.poll(gone, "every process has ended")


async def test_a_stream_that_waits_with_its_head_sent_ends_with_an_event(
    pair: tuple[Cluster, int],
) -> None:
    cluster, port = pair
    await cluster.ready()
    await cluster.ready(port)
    await cluster.load("late", options=STUCK, **SMALL)
    async with cluster.http(port) as http:
        await _known(cluster, http, "late")
        body = chat("late", stream=True)
        async with http.stream("POST", CHAT, json=body, timeout=60) as answer:
            told_to_stop(cluster, "gateway-2")
            heard = await listen(answer)
    assert heard.error is not None
    assert heard.error["message"] == "the gateway is stopping"
