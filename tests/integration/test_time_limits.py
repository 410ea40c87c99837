"""`X-Request-Timeout`: when an answer is no longer wanted, no work goes into it."""

import asyncio

import pytest

from tests.integration.asking import CHAT, Heard, chat, error, said, stream
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

LIMIT = 1.0
HOUR = 3600
"""Seconds: what ends before them does not wait for them."""


async def idle(cluster: Cluster, replica: str, **counts: int) -> None:
    """Wait until an engine works on nothing, and has finished and aborted so many."""

    async def so() -> bool:
        said = await cluster.engine_says(replica)
        return said["running"] == 0 and all(said[key] == counts[key] for key in counts)

    await cluster.poll(so, f"{replica} has nothing to do")


async def test_in_line_the_time_ends_with_a_504_and_the_engine_never_hears_of_it(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("line", max_in_flight=1, memory="64MiB")
    await cluster.tell_engine("line-0", stall=True)
    headers = {"X-Request-Timeout": str(LIMIT)}
    async with cluster.http() as http:
        first = asyncio.create_task(http.post(CHAT, json=chat("line", max_tokens=1)))

        async def it_runs() -> bool:
            return (await cluster.engine_says("line-0"))["running"] == 1

        await cluster.poll(it_runs, "the engine has its fill")
        answers = await asyncio.gather(
            *(
                http.post(CHAT, json=chat("line", stream=stream), headers=headers)
                for stream in (False, True)
            )
        )
        for answer in answers:
            assert error(answer, 504)["message"] == "the time of its X-Request-Timeout is over"
        await cluster.tell_engine("line-0", stall=False)
        assert said(await first) == "hello"
        assert said(await http.post(CHAT, json=chat("line", max_tokens=1))) == "hello"
    assert await cluster.engine_says("line-0") == {"running": 0, "finished": 2, "aborted": 0}


async def test_in_the_engine_the_time_ends_with_a_504_and_so_does_the_work(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("engine", memory="64MiB", options={"simulate-first-token": HOUR})
    headers = {"X-Request-Timeout": str(LIMIT)}
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("engine"), headers=headers)
        told = error(answer, 504)
        assert (told["message"], told["type"]) == (
            "the time of its X-Request-Timeout is over",
            "timeout",
        )
    await idle(cluster, "engine-0", finished=0, aborted=1)


async def test_a_stream_whose_time_is_over_ends_with_an_error_event(cluster: Cluster) -> None:
    await cluster.ready()
    slow = {"simulate-token": 0.1, "simulate-tokens": 10 * HOUR}
    await cluster.load("long", memory="64MiB", options=slow)
    heard = Heard()
    async with cluster.http() as http:
        await stream(http, chat("long"), heard, X_Request_Timeout=str(LIMIT))
    assert heard.text.startswith("hello hello")
    assert not heard.whole
    assert heard.error is not None
    assert heard.error["message"] == "the time of its X-Request-Timeout is over"
    await idle(cluster, "long-0", finished=0, aborted=1)


async def test_an_answer_within_its_time_is_an_answer(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("quick", memory="64MiB")
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("quick"), headers={"X-Request-Timeout": "10"})
        assert said(answer).startswith("hello")


@pytest.mark.parametrize("wrong", ["0", "-1", "soon", "nan", "inf", "1e10"])
async def test_what_is_not_a_duration_is_refused(cluster: Cluster, wrong: str) -> None:
    await cluster.ready()
    await cluster.load("refuses", memory="64MiB")
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("refuses"), headers={"X-Request-Timeout": wrong})
        assert "X-Request-Timeout" in error(answer, 400)["message"]


async def test_while_a_model_loads_the_time_runs_too(cluster: Cluster) -> None:
    await cluster.ready()
    slow = {"simulate-start": 3}
    await cluster.load("loading", memory="64MiB", options=slow, stands="")
    async with cluster.http() as http:
        answer = await http.post(
            CHAT, json=chat("loading"), headers={"X-Request-Timeout": str(LIMIT)}
        )
        assert error(answer, 504)["type"] == "timeout"
        assert (await http.delete("/admin/models/loading")).status_code == 202
