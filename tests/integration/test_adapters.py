"""LoRA adapters: every way to ask for one, what is told when it fails, what outlives a crash."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from nebula.events.state import State
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    EngineStarted,
)
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    """A model with one adapter from the start, one without LoRA, and an embedding model."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("base", adapters=[adapter(cluster, "early")], stands="")
        await cluster.load("plain", stands="")
        for identity in ("base", "plain"):
            await cluster.stands(identity)

    asyncio.run(load())


def folder(cluster: Cluster, name: str) -> str:
    return trained(cluster.folder / "adapters" / name)


def adapter(cluster: Cluster, name: str) -> dict[str, str]:
    return {"name": name, "source": folder(cluster, name)}


async def speaks(cluster: Cluster, name: str) -> bool:
    """Return whether the adapter, and no other, answers under its name."""
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat(name, max_tokens=2))
    return said(answer) == f"[{name}] hello"


async def ask(cluster: Cluster, model: str, fields: dict[str, Any], status: int = 202) -> Any:
    async with cluster.http() as http:
        answer = await http.post(f"/admin/models/{model}/adapters", json=fields)
    if status != 202:
        return error(answer, status)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def shown(cluster: Cluster, model: str, name: str) -> dict[str, Any]:
    """Return an adapter as the admin API shows it."""
    async with cluster.http() as http:
        view = (await http.get(f"/admin/models/{model}")).json()
    found: dict[str, Any] = next(item for item in view["adapters"] if item["name"] == name)
    return found


def has(replica: str, *names: str) -> Any:
    """Return whether a replica has loaded all these adapters."""

    def holds(state: State) -> bool:
        adapters = state.replicas[replica].adapters
        return all(name in adapters and adapters[name].loaded for name in names)

    return holds


async def test_an_adapter_that_the_load_names_is_served_with_the_model(cluster: Cluster) -> None:
    assert await speaks(cluster, "early")
    assert (await cluster.logged(AdapterLoaded, "base-0")).name == "early"
    digest = (await cluster.logged(AdapterLoaded, "base-0")).digest
    assert await shown(cluster, "base", "early") == {
        **adapter(cluster, "early"),
        "loaded": 1,
        "reason": "",
        "version": digest,
        "versions": {"base-0": [digest]},
    }


@pytest.mark.parametrize("name", ["late", "org/späte dichterin ✓", "*"])
async def test_an_adapter_is_loaded_and_unloaded_at_run_time_over_http(
    cluster: Cluster, name: str
) -> None:
    engine = await cluster.engine("base-0")
    await ask(cluster, "base", {"name": name, "source": folder(cluster, "late")})
    assert await speaks(cluster, name), "the request waits until the adapter is in place"
    async with cluster.http() as http:
        cards = {card["id"]: card for card in (await http.get("/v1/models")).json()["data"]}
        assert cards[name]["parent"] == "base"

        gone = await http.delete(f"/admin/models/base/adapters/{name}")
        assert gone.status_code == 202, gone.text
        error(await http.post(CHAT, json=chat(name)), 404)
        await cluster.until(
            lambda state: name not in state.replicas["base-0"].adapters, "it is off the engine"
        )
        again = error(await http.delete(f"/admin/models/base/adapters/{name}"), 404)
        assert name in again["message"]
        async with await cluster.engine_http("base-0") as direct:
            listed = {card["id"] for card in (await direct.get("/v1/models")).json()["data"]}
        assert name not in listed
    assert await cluster.engine("base-0") == engine, "nothing was restarted"


async def test_an_adapter_is_loaded_and_unloaded_by_hand_published_events(
    cluster: Cluster,
) -> None:
    subject = "nebula.events.model.base."
    await cluster.publish(
        subject + "AdapterLoadRequested", json.dumps(adapter(cluster, "hand")).encode()
    )
    await cluster.until(has("base-0", "hand"), "it is loaded")
    assert await speaks(cluster, "hand")
    await cluster.publish(subject + "AdapterUnloadRequested", b'{"name": "hand"}')
    await cluster.until(
        lambda state: "hand" not in state.replicas["base-0"].adapters, "it is unloaded"
    )


async def test_a_missing_folder_is_told_in_the_model_s_view_and_in_the_answer_to_the_request(
    cluster: Cluster,
) -> None:
    await ask(cluster, "base", {"name": "ghost", "source": "/does/not/exist"})
    failed = await cluster.logged(AdapterLoadFailed, "base-0")
    assert (failed.name, failed.source) == ("ghost", "/does/not/exist")
    view = await shown(cluster, "base", "ghost")
    assert view["loaded"] == 0
    assert failed.reason in view["reason"]
    assert failed.reason == (
        "no adapter found in /does/not/exist: there is no such folder on this node"
    )

    async with cluster.http() as http:
        async with asyncio.timeout(5):
            refused = error(await http.post(CHAT, json=chat("ghost")), 503)
        assert "'ghost' could not be loaded" in refused["message"]
        assert "no adapter found in /does/not/exist" in refused["message"]
        assert said(await http.post(CHAT, json=chat("base", max_tokens=1))) == "hello"
    assert await speaks(cluster, "early")

    # The same name from a folder that is there heals it.
    await ask(cluster, "base", {"name": "ghost", "source": folder(cluster, "ghost")})
    assert await speaks(cluster, "ghost")
    assert (await shown(cluster, "base", "ghost"))["reason"] == ""


async def test_a_folder_that_appears_later_is_taken_when_the_same_is_asked_again(
    cluster: Cluster,
) -> None:
    source = str(cluster.folder / "adapters" / "tardy")
    await ask(cluster, "base", {"name": "tardy", "source": source})
    await cluster.until(
        lambda state: "tardy" in state.replicas["base-0"].adapters, "it was tried once"
    )
    assert (await shown(cluster, "base", "tardy"))["loaded"] == 0
    folder(cluster, "tardy")
    await ask(cluster, "base", {"name": "tardy", "source": source})
    assert await speaks(cluster, "tardy")


async def test_a_replaced_source_is_loaded_in_place_of_the_old_one(cluster: Cluster) -> None:
    await ask(cluster, "base", adapter(cluster, "changing"))
    await cluster.until(has("base-0", "changing"), "the first is loaded")
    source = folder(cluster, "changed")
    await ask(cluster, "base", {"name": "changing", "source": source})
    await cluster.until(
        lambda state: (
            has("base-0", "changing")(state)
            and state.replicas["base-0"].adapters["changing"].source == source
        ),
        "the second is loaded",
    )
    assert await speaks(cluster, "changing")


@pytest.mark.parametrize(
    ("model", "fields", "status", "words"),
    [
        ("plain", {"name": "x", "source": "/x"}, 400, "load it with lora: true"),
        ("base", {"name": "base", "source": "/x"}, 400, "is the model's own name"),
        ("base", {"name": "plain", "source": "/x"}, 409, "is already the name of model 'plain'"),
        ("plain", {"name": "early", "source": "/x"}, 400, "without LoRA"),
        ("base", {"name": "", "source": "/x"}, 400, "name"),
        ("base", {"name": "x"}, 400, "source"),
        ("base", {"name": "x", "source": "--evil"}, 400, "neither a folder nor a hub id"),
        ("nobody", {"name": "x", "source": "/x"}, 404, "there is no model"),
    ],
)
async def test_an_adapter_that_can_t_be_had_is_refused_with_what_to_do(
    cluster: Cluster, model: str, fields: dict[str, str], status: int, words: str
) -> None:
    before = await cluster.last_seq()
    refused = await ask(cluster, model, fields, status)
    assert words in refused["message"]
    assert await cluster.last_seq() == before


async def test_the_command_line_names_the_flag_that_a_model_was_loaded_without(
    cluster: Cluster,
) -> None:
    told = await cluster.nebula("adapters", "load", "plain", "x", "/x")
    assert told.code == 1
    assert "model 'plain' was loaded without LoRA; this loads it again" in told.err
    assert "`nebula load simulated --id plain --memory 512MiB --lora`" in told.err


async def test_by_hand_too_an_adapter_for_a_model_without_lora_is_rejected(
    cluster: Cluster,
) -> None:
    reason = await cluster.publish_rejected(
        "nebula.events.model.plain.AdapterLoadRequested", b'{"name": "x", "source": "/x"}'
    )
    assert "load it with lora: true" in reason


async def test_adapters_come_back_after_their_engine_was_killed(cluster: Cluster) -> None:
    await ask(cluster, "base", adapter(cluster, "second"))
    await cluster.until(has("base-0", "early", "second"), "both are loaded")
    pid = (await cluster.engine("base-0")).pid
    before = await cluster.last_seq()
    os.kill(pid, signal.SIGKILL)
    assert (await cluster.logged(EngineStarted, "base-0", after=before)).pid != pid
    assert await speaks(cluster, "early"), "the request waits for engine and adapter"
    assert await speaks(cluster, "second")


async def test_every_replica_gets_the_adapters_also_one_that_is_added_later(
    cluster: Cluster,
) -> None:
    slow = {"simulate-first-token": 0.3}  # so that the answers overlap, and each replica has some
    await cluster.load("pair", replicas=2, adapters=[adapter(cluster, "both")], options=slow)
    await cluster.until(
        lambda state: has("pair-0", "both")(state) and has("pair-1", "both")(state), "both have it"
    )
    async with cluster.http() as http:
        assert (await http.patch("/admin/models/pair", json={"replicas": 3})).status_code == 202
        await cluster.until(
            lambda state: "pair-2" in state.replicas and has("pair-2", "both")(state),
            "the third has it",
        )
        assert (await shown(cluster, "pair", "both"))["loaded"] == 3
        answers = await asyncio.gather(
            *(http.post(CHAT, json=chat("both", max_tokens=2)) for _ in range(12))
        )
    assert {said(answer) for answer in answers} == {"[both] hello"}
    for number in range(3):
        assert (await cluster.engine_says(f"pair-{number}"))["finished"] > 0


async def test_unloading_the_model_frees_the_names_of_its_adapters(cluster: Cluster) -> None:
    await cluster.load("brief", adapters=[adapter(cluster, "free")])
    assert await speaks(cluster, "free")
    async with cluster.http() as http:
        await http.delete("/admin/models/brief")
        await cluster.until(lambda state: "brief" not in state.models, "it is unloaded")
        error(await http.post(CHAT, json=chat("free")), 404)
        await ask(cluster, "base", adapter(cluster, "free"))
    assert await speaks(cluster, "free")
