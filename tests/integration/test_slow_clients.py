"""Clients that do not keep up: they are cut off alone, and their generation ends."""

import asyncio

import pytest

from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_a_client_that_stops_reading_is_given_up_and_delays_no_other(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("chat", options={"simulate-tokens": 3_000_000})
    body = chat("chat", stream=True)
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200  # and now it does not read

        async def given_up() -> bool:
            counts = await cluster.engine_says("chat-0")
            return counts["running"] == 0 and counts["aborted"] == 1

        async def others() -> None:
            for _ in range(20):
                assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
                await asyncio.sleep(0.1)

        await asyncio.gather(cluster.poll(given_up, "its generation is ended"), others())
        lines = [line async for line in answer.aiter_lines() if line]
    assert "the client reads too slowly" in lines[-1]
    assert (await cluster.engine_says("chat-0"))["finished"] == 20
