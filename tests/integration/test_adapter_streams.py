"""Streams of an adapter whose engine dies: they go on with the version that began them, or end."""

import asyncio
import json
import os
import signal

import pytest

from nebula.events.state import State
from tests.adapters import trained
from tests.integration.asking import Heard, chat, stream
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

TOKENS = 80
SLOW = {"simulate-token": 0.05, "simulate-tokens": TOKENS}


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    """A model on two replicas, slow of speech."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("base", replicas=2, lora=True, memory="64MiB", options=SLOW)

    asyncio.run(load())


def train(cluster: Cluster, name: str, says: str) -> str:
    return trained(cluster.folder / "trained" / name, says=says)


async def put(cluster: Cluster, name: str, says: str) -> None:
    fields = {"name": name, "source": train(cluster, name, says)}
    async with cluster.http() as http:
        answer = await http.post("/admin/models/base/adapters", json=fields)
    seq = answer.json()["seq"]

    def serves(state: State) -> bool:
        offer = state.models["base"].offers[name]
        held = [state.replicas[f"base-{number}"].adapters.get(name) for number in (0, 1)]
        return offer.served == seq and all(
            each is not None and offer.digest in each.held for each in held
        )

    await cluster.until(serves, f"{name} serves")


async def kill_who_has_it(cluster: Cluster) -> None:
    for number in (0, 1):
        if (await cluster.engine_says(f"base-{number}"))["running"]:
            os.kill((await cluster.engine(f"base-{number}")).pid, signal.SIGKILL)
            return
    raise AssertionError("no engine has it")


async def begun(cluster: Cluster, heard: Heard) -> None:
    async def so() -> bool:
        return len(heard.chunks) > 4

    await cluster.poll(so, "the stream has begun")


async def test_it_goes_on_with_the_same_version_under_the_public_name(cluster: Cluster) -> None:
    await put(cluster, "poet", "v1")
    heard = Heard()
    async with cluster.http() as http:
        streaming = asyncio.create_task(stream(http, chat("poet", "one two three"), heard))
        await begun(cluster, heard)
        await kill_who_has_it(cluster)
        await streaming
    assert heard.error is None
    assert heard.whole
    assert heard.text == "[v1] " + " ".join((["one", "two", "three"] * TOKENS)[: TOKENS - 1])
    assert {chunk["model"] for chunk in heard.chunks} == {"poet"}


async def test_it_ends_with_an_error_where_only_another_version_could_go_on(
    cluster: Cluster,
) -> None:
    await put(cluster, "changing", "old")
    heard = Heard()
    async with cluster.http() as http:
        streaming = asyncio.create_task(stream(http, chat("changing", "one two three"), heard))
        await begun(cluster, heard)
        await put(cluster, "changing", "new")
        before = len(heard.chunks)
        assert heard.text.startswith("[old] one two"), "the old version answers what it began"
        await kill_who_has_it(cluster)
        await streaming
    assert len(heard.chunks) >= before
    assert heard.error is not None
    assert "adapter 'changing' is another version by now" in json.dumps(heard.error)
    assert "new" not in heard.text
