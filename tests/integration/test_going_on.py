"""kill -9 of engines under load: every answer comes whole, as if nothing had happened."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.integration.asking import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Heard,
    chat,
    error,
    prompt,
    said,
    stream,
    words,
)
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

TOKENS = 60
SLOW = {"simulate-token": 0.05, "simulate-tokens": TOKENS}
TWO: dict[str, Any] = {"replicas": 2, "memory": "64MiB", "options": SLOW}
USAGE = {"stream_options": {"include_usage": True}}


async def kill_engine(cluster: Cluster, replica: str) -> None:
    os.kill((await cluster.engine(replica)).pid, signal.SIGKILL)


async def all_run(cluster: Cluster, number: int, *replicas: str) -> None:
    """Wait until the engines of these replicas work on so many requests together."""

    async def so() -> bool:
        at = [await cluster.engine_says(replica) for replica in replicas]
        return sum(counts["running"] for counts in at) == number

    await cluster.poll(so, f"{number} requests run")


async def begun(cluster: Cluster, heard: list[Heard], number: int = 3) -> None:
    """Wait until each of these streams has said something."""

    async def so() -> bool:
        return all(len(each.chunks) > number for each in heard)

    await cluster.poll(so, "all streams have begun")


def sound(heard: Heard, number: int, tokens: int = TOKENS) -> None:
    """Check that a stream came as from one engine that nothing happened to."""
    assert heard.error is None
    assert heard.whole
    assert heard.text == words(number, tokens)
    assert len(heard.ids) == 1
    assert heard.roles == 1
    assert heard.ends == ["stop"]
    length = len(prompt(number).split())
    assert [usage["completion_tokens"] for usage in heard.usage] == [tokens]
    assert [usage["prompt_tokens"] for usage in heard.usage] == [length]
    assert [usage["total_tokens"] for usage in heard.usage] == [length + tokens]


async def test_fifty_streams_are_whole_although_one_of_two_engines_is_killed_in_the_middle(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("fifty", **TWO)
    heard = [Heard() for _ in range(50)]
    async with cluster.http() as http:
        streams = [
            asyncio.create_task(stream(http, chat("fifty", prompt(n), **USAGE), heard[n]))
            for n in range(50)
        ]
        await begun(cluster, heard)
        there = [(await cluster.engine_says(f"fifty-{n}"))["running"] for n in range(2)]
        assert min(there) >= 10, "both have their part of them"
        await kill_engine(cluster, "fifty-0")
        await asyncio.gather(*streams)
        for number, each in enumerate(heard):
            sound(each, number)

        undisturbed = await stream(http, chat("fifty", prompt(0), **USAGE))
    for chunk in undisturbed.chunks + heard[0].chunks:
        del chunk["id"], chunk["created"]
    assert heard[0].chunks == undisturbed.chunks


async def test_whole_answers_and_embeddings_survive_their_engine_too(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("whole", **TWO)
    slow = {"simulate-first-token": 3}
    await cluster.load("embed", task="embedding", replicas=2, memory="64MiB", options=slow)

    async with cluster.http() as http:
        answers = [
            asyncio.create_task(http.post(CHAT, json=chat("whole", prompt(n)))) for n in range(10)
        ]
        texts = [[f"text {n}"] for n in range(10)]
        embeddings = [
            asyncio.create_task(http.post(EMBEDDINGS, json={"model": "embed", "input": text}))
            for text in texts
        ]
        await all_run(cluster, 10, "whole-0", "whole-1")
        await all_run(cluster, 10, "embed-0", "embed-1")
        await asyncio.gather(kill_engine(cluster, "whole-0"), kill_engine(cluster, "embed-0"))
        answered = await asyncio.gather(*answers)
        embedded = await asyncio.gather(*embeddings)
        assert [said(answer) for answer in answered] == [words(n, TOKENS) for n in range(10)]

        again = await asyncio.gather(
            *(http.post(EMBEDDINGS, json={"model": "embed", "input": text}) for text in texts)
        )
        for answer, other in zip(embedded, again, strict=True):
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"] == other.json()["data"]


async def test_streams_of_the_only_replica_go_on_once_it_is_back(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("only", options={**SLOW, "simulate-start": 1})
    heard = [Heard() for _ in range(5)]
    async with cluster.http() as http:
        streams = [
            asyncio.create_task(stream(http, chat("only", prompt(n), **USAGE), heard[n]))
            for n in range(5)
        ]
        await begun(cluster, heard)
        whole = asyncio.create_task(http.post(CHAT, json=chat("only", prompt(7))))
        await all_run(cluster, 6, "only-0")
        await kill_engine(cluster, "only-0")
        await asyncio.gather(*streams)
        for number, each in enumerate(heard):
            sound(each, number)
        assert said(await whole) == words(7, TOKENS)


async def test_a_stream_outlives_one_engine_after_the_other(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("twice", **TWO)
    heard = Heard()

    async def kill_who_has_it() -> None:
        for number in range(2):
            if (await cluster.engine_says(f"twice-{number}"))["running"]:
                await kill_engine(cluster, f"twice-{number}")
                return

    async with cluster.http() as http:
        streaming = asyncio.create_task(stream(http, chat("twice", prompt(1), **USAGE), heard))
        await begun(cluster, [heard])
        await kill_who_has_it()
        await begun(cluster, [heard], len(heard.chunks) + 5)
        await cluster.stands("twice")
        await kill_who_has_it()
        await streaming
    sound(heard, 1)


async def test_a_completion_goes_on_with_the_token_ids_that_its_client_wants(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("ids", **TWO)
    body = {"model": "ids", "prompt": prompt(1), "max_tokens": TOKENS, "return_token_ids": True}
    heard = [Heard() for _ in range(4)]
    async with cluster.http() as http:
        streams = [
            asyncio.create_task(stream(http, body, each, path=COMPLETIONS)) for each in heard
        ]
        await begun(cluster, heard)
        await kill_engine(cluster, "ids-0")
        await asyncio.gather(*streams)
        undisturbed = await stream(http, body, path=COMPLETIONS)
    assert undisturbed.token_ids
    for each in heard:
        assert each.whole
        assert (each.text, each.token_ids) == (undisturbed.text, undisturbed.token_ids)
        assert each.ends == undisturbed.ends == ["stop"]
        assert len(each.chunks) == len(undisturbed.chunks)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


async def test_what_cannot_go_on_exactly_ends_with_an_error_that_says_why(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("strict", options=SLOW)
    wishes: dict[str, dict[str, Any]] = {
        "tools may be called": {"tools": [TOOL]},
        "stop strings make the engine hold text back": {"stop": ["\n"]},
        "more than one choice is asked for": {"n": 2},
        "the form of the answer is constrained": {"response_format": {"type": "json_object"}},
    }
    heard = [Heard() for _ in wishes]
    async with cluster.http() as http:
        streams = [
            asyncio.create_task(stream(http, chat("strict", **wish), each))
            for wish, each in zip(wishes.values(), heard, strict=True)
        ]
        await begun(cluster, heard)
        await kill_engine(cluster, "strict-0")
        await asyncio.gather(*streams)
    for each, why in zip(heard, wishes, strict=True):
        assert not each.whole
        assert each.text.startswith("hello hello")
        assert each.error is not None
        assert each.error["type"] == "service_unavailable"
        assert each.error["message"] == (
            "the engine that worked on this request has failed, "
            f"and the answer can't go on elsewhere: {why}"
        )


async def test_a_request_that_kills_engines_is_refused_in_the_end(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("poisoned", options={"simulate-exit-after": 0})
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("poisoned")), 500)
    assert refused["code"] == "engines_failed"
    await cluster.stands("poisoned")


async def test_a_client_that_leaves_while_its_stream_has_no_engine_gets_none(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("left", options={**SLOW, "simulate-start": 2})
    heard = Heard()
    async with cluster.http() as http:
        streaming = asyncio.create_task(stream(http, chat("left"), heard))
        await begun(cluster, [heard])
        pid = (await cluster.engine("left-0")).pid
        os.kill(pid, signal.SIGKILL)
        await cluster.until(
            lambda state: (engine := state.replicas["left-0"].engine) is None or engine.pid != pid,
            "the log says that it is dead",
        )
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
        await cluster.stands("left")
        assert said(await http.post(CHAT, json=chat("left", max_tokens=1))) == "hello"
    assert await cluster.engine_says("left-0") == {"running": 0, "finished": 1, "aborted": 0}


async def test_an_engine_that_is_stopped_hands_its_streams_over(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("fewer", **TWO)
    heard = [Heard() for _ in range(10)]
    async with cluster.http() as http:
        streams = [
            asyncio.create_task(stream(http, chat("fewer", prompt(n), **USAGE), heard[n]))
            for n in range(10)
        ]
        await begun(cluster, heard)
        assert (await http.patch("/admin/models/fewer", json={"replicas": 1})).status_code == 202
        await asyncio.gather(*streams)
    for number, each in enumerate(heard):
        sound(each, number)
