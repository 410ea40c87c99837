"""An adapter whose files change, move, break or differ: what answers under its name, and where.

The simulated engine says what stands in an adapter's configuration, reads its folder again when
another adapter was in its one slot, and mixes what it computed before with what it reads now.
"""

import asyncio
import json
import os
import re
import shutil
import signal
from typing import Any

import pytest

from nebula.events import record
from nebula.events.state import State
from nebula.events.vocabulary import AdapterLoaded, AdapterUnloaded, EngineFailed
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    """A model on two replicas."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("base", replicas=2, lora=True)

    asyncio.run(load())


def train(cluster: Cluster, name: str, says: str, **more: object) -> str:
    """Write an adapter's folder, or write it anew in place."""
    return trained(cluster.folder / "trained" / name, says=says, **more)


async def put(cluster: Cluster, name: str, source: str) -> int:
    async with cluster.http() as http:
        fields = {"name": name, "source": source}
        answer = await http.post("/admin/models/base/adapters", json=fields)
    assert answer.status_code == 202, answer.text
    seq: int = answer.json()["seq"]
    return seq


async def stands(cluster: Cluster, name: str, source: str) -> str:
    """Ask for an adapter, wait until its name stands for it on both, and return its digest."""
    seq = await put(cluster, name, source)
    state = await cluster.until(lambda state: serves(state, name, seq), f"{name} serves")
    return state.models["base"].offers[name].digest


def serves(state: State, name: str, seq: int) -> bool:
    offer = state.models["base"].offers[name]
    held = [state.replicas[f"base-{number}"].adapters.get(name) for number in (0, 1)]
    return offer.served >= seq and all(
        each is not None and offer.digest in each.held for each in held
    )


async def answers(cluster: Cluster, name: str, times: int = 12, text: str = "hello") -> set[str]:
    """Return what is answered under a name, by whichever replica."""
    async with cluster.http() as http:
        got = await asyncio.gather(
            *(http.post(CHAT, json=chat(name, text, max_tokens=1)) for _ in range(times))
        )
    return {said(each) for each in got}


async def of_each(cluster: Cluster, name: str) -> None:
    """Have both replicas answer, so that both have computed the prompt."""
    for text in ("one", "two", "three", "four", "five", "six"):
        await answers(cluster, name, 4, text)


async def view(cluster: Cluster, name: str) -> dict[str, Any]:
    async with cluster.http() as http:
        model = (await http.get("/admin/models/base")).json()
    found: dict[str, Any] = next(item for item in model["adapters"] if item["name"] == name)
    return found


async def test_files_that_change_in_place_change_no_answer_until_they_are_asked_for(
    cluster: Cluster,
) -> None:
    source = train(cluster, "poet", "old")
    await stands(cluster, "poet", source)
    await of_each(cluster, "poet")
    assert await answers(cluster, "poet") == {"[old]"}

    train(cluster, "poet", "new")
    await stands(cluster, "other", train(cluster, "other", "other"))
    await of_each(cluster, "other")  # which puts the first one out of the engines' one slot
    assert await answers(cluster, "poet") == {"[old]"}

    before = await cluster.last_seq()
    told = await cluster.nebula("adapters", "load", "base", "poet", source)
    assert told.code == 0, told.err
    assert "base is ready: 2 of 2 replicas after" in told.err
    assert re.search(r"with poet, version [0-9a-f]{12}$", told.err.strip())
    assert await answers(cluster, "poet") == {"[new]"}
    await of_each(cluster, "poet")
    assert await answers(cluster, "other") == {"[other]"}
    assert await answers(cluster, "poet") == {"[new]"}
    assert (await cluster.logged(AdapterUnloaded, "base-0", after=before)).name == "poet"

    again = await cluster.nebula("adapters", "load", "base", "poet", source)
    assert again.code == 0
    assert "the same files as before" in again.err


async def test_a_missing_or_broken_source_leaves_what_answers_and_is_told(
    cluster: Cluster,
) -> None:
    good = await stands(cluster, "verse", train(cluster, "verse", "good"))
    missing = str(cluster.folder / "nothere")
    told = await cluster.nebula("adapters", "load", "base", "verse", missing)
    assert told.code == 1
    assert f"verse was not changed, version {good[:12]} answers as before" in told.err
    assert f"no adapter found in {missing}: there is no such folder on this node" in told.err
    assert await answers(cluster, "verse") == {"[good]"}

    broken = train(cluster, "broken", "broken", r=64)
    told = await cluster.nebula("adapters", "load", "base", "verse", broken)
    assert told.code == 1
    assert "LoRA rank 64 is greater than max_lora_rank 16" in told.err
    assert await answers(cluster, "verse") == {"[good]"}

    shown = await view(cluster, "verse")
    assert (shown["loaded"], shown["version"]) == (2, good)
    assert shown["versions"] == {"base-0": [good], "base-1": [good]}
    assert "stays" in shown["reason"]
    assert broken in shown["reason"]
    listed = (await cluster.nebula("adapters")).out
    assert good[:12] in listed
    why = (await cluster.nebula("why", "verse")).out
    assert f"version {good[:12]}, in place on 2 of 2 replicas" in re.sub(r"\s+", " ", why)

    other = await stands(cluster, "verse", train(cluster, "mended", "mended"))
    assert other != good
    assert await answers(cluster, "verse") == {"[mended]"}
    assert (await view(cluster, "verse"))["reason"] == ""


async def test_a_replica_that_comes_back_answers_as_the_others_do(cluster: Cluster) -> None:
    source = train(cluster, "steady", "first")
    digest = await stands(cluster, "steady", source)
    train(cluster, "steady", "second")
    before = await cluster.last_seq()
    os.kill((await cluster.engine("base-1")).pid, signal.SIGKILL)
    while (back := await cluster.logged(AdapterLoaded, "base-1", after=before)).name != "steady":
        before += 1
    assert back.digest == digest
    await cluster.until(lambda state: serves(state, "steady", 0), "both serve")
    assert await answers(cluster, "steady", 24) == {"[first]"}
    assert (await view(cluster, "steady"))["loaded"] == 2

    shutil.rmtree(source)
    told = await cluster.nebula("adapters", "load", "base", "steady", source)
    assert told.code == 1
    assert await answers(cluster, "steady", 24) == {"[first]"}


@pytest.mark.parametrize("name", ["plain", 'org/späte "dichterin" ✓@{}'])
async def test_clients_see_the_public_name_and_nothing_else(cluster: Cluster, name: str) -> None:
    await stands(cluster, name, train(cluster, "named", "named"))
    async with cluster.http() as http:
        whole = await http.post(CHAT, json=chat(name, max_tokens=3))
        assert whole.json()["model"] == name
        streamed = await http.post(CHAT, json=chat(name, stream=True, max_tokens=3))
        lines = [line for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert {json.loads(line.removeprefix("data: "))["model"] for line in lines} == {name}
        fields = {"model": name, "prompt": "a", "max_tokens": 2}
        completed = await http.post("/v1/completions", json=fields)
        assert completed.json()["model"] == name
        refused = await http.post(CHAT, json=chat(name, max_tokens="x"))
        assert refused.status_code == 400
        assert "%" not in refused.text
        assert "@" not in refused.text.replace(name, "")


async def test_changes_under_load_lose_no_request_and_mix_nothing(cluster: Cluster) -> None:
    sources = [train(cluster, f"busy-{number}", f"v{number}") for number in (0, 1)]
    await stands(cluster, "busy", sources[0])
    done = asyncio.Event()
    got: list[str] = []

    async def client(number: int) -> None:
        async with cluster.http() as http:
            while not done.is_set():
                stream = number % 2 == 0
                body = chat("busy", f"word{len(got) % 7}", max_tokens=1, stream=stream)
                answer = await http.post(CHAT, json=body)
                assert answer.status_code == 200, answer.text
                found = re.search(r"\[(.*?)\]", re.sub(r'"choices":\[', "", answer.text))
                assert found is not None, answer.text
                got.append(found[1])

    clients = [asyncio.create_task(client(number)) for number in range(4)]
    for number in range(1, 13):
        await stands(cluster, "busy", sources[number % 2])
        seen = len(got)

        async def more(seen: int = seen) -> bool:
            return len(got) > seen + 8 or any(each.done() for each in clients)

        await cluster.poll(more, "some more answers")
        assert set(got[seen + 4 :]) == {f"v{number % 2}"}, "after a change only the new one answers"
    done.set()
    await asyncio.gather(*clients)
    assert set(got) == {"v0", "v1"}


async def test_a_command_does_not_wait_for_a_replica_that_was_given_up(cluster: Cluster) -> None:
    await cluster.load("pair", replicas=2, lora=True)
    failed = EngineFailed("RuntimeError: no", 1, attempt=2)
    await cluster.publish(record.subject_of("pair-1", failed, "here"), record.encode(failed))
    await cluster.until(lambda state: state.replicas["pair-1"].given_up, "it is given up")
    source = train(cluster, "lonely", "lonely")
    told = await cluster.nebula("adapters", "load", "pair", "lonely", source)
    assert told.code == 0, told.err
    assert "1 of 2 replicas" in told.err
    assert "with lonely" in told.err
    assert "pair-1 on here gave up after 2 attempts" in told.err


async def test_an_empty_folder_is_not_taken_for_an_adapter(cluster: Cluster) -> None:
    path = cluster.folder / "nothing"
    path.mkdir()
    told = await cluster.nebula("adapters", "load", "base", "nothing", str(path))
    assert told.code == 1
    assert f"no adapter found in {path}: it has no adapter_config.json" in told.err
    assert "the engine says" not in told.err


async def test_a_folder_with_a_model_is_not_taken_for_an_adapter(cluster: Cluster) -> None:
    path = cluster.folder / "a-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    await put(cluster, "wrong", str(path))
    words = f"{path} holds a model, not an adapter: it has no adapter_config.json"
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("wrong")), 503)
    assert f"base-0 on here: {words} (likewise base-1 on here)" in refused["message"]
