"""The admin API: what it takes, what it refuses, and how it says so."""

import asyncio
from typing import Any

import pytest

from nebula.events.intents import ModelLoadRequested
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        (cluster.folder / "pirate").mkdir()
        adapters = [{"name": "pirate", "source": str(cluster.folder / "pirate")}]
        await cluster.load("chat", name="org/chat", adapters=adapters)

    asyncio.run(load())


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({}, 400, "source", "source"),
        ({"source": ""}, 400, "source", "length"),
        ({"source": 5}, 400, "source", "Expected `str`"),
        ({"source": "-x/y"}, 400, "source", "neither a folder nor a hub id"),
        ({"source": "m", "sauce": "x"}, 400, "sauce", "unknown field `sauce`"),
        ({"source": "m", "task": "paint"}, 400, "task", "paint"),
        ({"source": "m", "replicas": -1}, 400, "replicas", ">= 0"),
        ({"source": "m", "replicas": "two"}, 400, "replicas", "Expected `int`"),
        ({"source": "m", "memory": "6 apples"}, 400, "memory", "write bytes, or 6GiB"),
        ({"source": "m", "memory": 0}, 400, "memory", "out of range"),
        ({"source": "m", "options": {"port": 1}}, 400, "options", "set by Nebula itself"),
        ({"source": "m", "options": {"served_model_name": "x"}}, 400, "options", "by Nebula"),
        ({"source": "m", "options": {"--dtype": "x"}}, 400, "options", "without dashes"),
        ({"source": "m", "options": {"dtype": "a\0b"}}, 400, "options", "NUL"),
        ({"source": "m", "options": {"tensor-parallel-size": 0}}, 400, "options", "from 1"),
        ({"source": "m", "devices": [0]}, 400, "devices", "without the node"),
        ({"source": "m", "node": "here", "devices": [9]}, 400, "devices", "has no device 9"),
        ({"source": "m", "policy": "random"}, 400, "policy", "random"),
        ({"source": "m", "options": {"dtype": ["a\0b"]}}, 400, "options", "NUL"),
        ({"source": "m", "env": {"NEBULA_NODE": "x"}}, 400, "env", "can't be set"),
        ({"source": "m", "env": {"A=B": "x"}}, 400, "env", "can't be set"),
        ({"source": "m", "env": {"A": "x\0"}}, 400, "env", "NUL"),
        ({"source": "m", "name": " m"}, 400, "name", "spaces at its ends"),
        ({"source": "m", "name": "a\nb"}, 400, "name", "can't be printed"),
        ({"source": "m", "name": "-m"}, 400, "name", "begins with '-'"),
        ({"source": "m", "name": "x" * 257}, 400, "name", "length"),
        ({"source": "m", "id": "a.b"}, 400, "id", "is no id"),
        ({"source": "m", "id": "x" * 129}, 400, "id", "128 at most"),
        ({"source": "m", "id": 7}, 400, "id", "is no id"),
        ({"source": "m", "id": "other", "name": "org/chat"}, 409, "name", "of model 'chat'"),
        ({"source": "m", "id": "other", "name": "pirate"}, 409, "name", "an adapter of model"),
        (
            {"source": "m", "id": "o", "adapters": [{"name": "pirate", "source": "p"}]},
            409,
            "name",
            "is already an adapter",
        ),
        (
            {"source": "m", "adapters": [{"name": "a", "source": "p"}] * 2},
            400,
            "adapters",
            "stands twice",
        ),
        ({"source": "m", "adapters": [{"name": "a"}]}, 400, "adapters[0].source", "source"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_a_load_that_can_t_be_granted_is_refused_and_never_reaches_the_log(
    cluster: Cluster, fields: dict[str, Any], status: int, param: str, words: str
) -> None:
    before = await cluster.last_seq()
    async with cluster.http() as http:
        refused = error(await http.post("/admin/models", json=fields), status)
    assert words in refused["message"]
    assert (refused["param"] or "").startswith(param)
    assert await cluster.last_seq() == before


async def test_what_is_unknown_is_answered_404_with_what_there_is(cluster: Cluster) -> None:
    async with cluster.http() as http:
        for method, path in (
            ("GET", "/admin/models/nope"),
            ("PATCH", "/admin/models/nope"),
            ("DELETE", "/admin/models/nope"),
            ("POST", "/admin/models/nope/adapters"),
        ):
            body = {"replicas": 1} if method == "PATCH" else {"name": "a", "source": "b"}
            sent = body if method in ("PATCH", "POST") else None
            refused = error(await http.request(method, path, json=sent), 404)
            assert "there is no model with the id 'nope'; there are: chat" in refused["message"]
        gone = await http.delete("/admin/models/chat/adapters/nope")
        assert "has no adapter 'nope'" in error(gone, 404)["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/admin/models/chat", {}, "replicas"),
        ("/admin/models/chat", {"replicas": 1.5}, "replicas"),
        ("/admin/models/chat", {"replicas": 1, "now": True}, "now"),
        ("/admin/models/chat/adapters", {"name": "a"}, "source"),
        ("/admin/models/chat/adapters", {"name": "org/chat", "source": "b"}, "name"),
    ],
)
async def test_a_wrong_field_of_any_other_intent_is_named_too(
    cluster: Cluster, path: str, body: dict[str, Any], param: str
) -> None:
    method = "POST" if path.endswith("adapters") else "PATCH"
    async with cluster.http() as http:
        refused = error(await http.request(method, path, json=body), 400)
    assert refused["param"] == param


async def test_a_repeated_request_with_the_same_idempotency_key_is_one_event(
    cluster: Cluster,
) -> None:
    request = {"source": "simulated", "memory": "128MiB"}
    async with cluster.http() as http:
        for _ in range(3):
            answer = await http.post(
                "/admin/models", json={**request, "id": "once"}, headers={"Idempotency-Key": "k1"}
            )
            assert answer.status_code == 202
    assert len(await cluster.records(ModelLoadRequested, identity="once")) == 1
    await cluster.stands("once")


async def test_a_model_is_loaded_shown_scaled_and_unloaded_over_http(cluster: Cluster) -> None:
    async with cluster.http() as http:
        request = {"source": "org/small", "memory": "128MiB", "replicas": 2}
        accepted = (await http.post("/admin/models", json=request)).json()
        assert accepted["id"] == "small", "the id comes from the source's last part"
        await cluster.stands("small")
        shown = (await http.get("/admin/models/small")).json()
        ready = {"word": "ready", "ready": 2, "wanted": 2, "detail": "", "changing": 0}
        assert shown["standing"] == ready
        assert shown["replicas"] == ["small-0", "small-1"]

        for wanted in (3, 1):
            assert (await http.patch("/admin/models/small", json={"replicas": wanted})).is_success
            await cluster.until(
                lambda state, wanted=wanted: len(state.models["small"].replicas) == wanted,
                f"{wanted} replicas",
            )
            await cluster.stands("small")
            assert said(await http.post(CHAT, json=chat("small", max_tokens=1))) == "hello"

        await http.patch("/admin/models/small", json={"replicas": 0})
        await cluster.stands("small", "idle")
        refused = error(await http.post(CHAT, json=chat("small")), 503)
        assert "scaled to 0" in refused["message"]

        assert (await http.delete("/admin/models/small")).status_code == 202
        await cluster.until(lambda state: "small" not in state.models, "it is unloaded")
        error(await http.get("/admin/models/small"), 404)
        error(await http.post(CHAT, json=chat("small")), 404)
        places = (await http.get("/admin/replicas")).json()
        (node,) = (await http.get("/admin/nodes")).json()
    assert not [place for place in places if place["model"] == "small"]
    assert node["id"] == "here"
    assert node["devices"][0]["memory"] > 2**30


async def test_a_model_that_fits_nowhere_is_unschedulable_with_the_room_there_is(
    cluster: Cluster,
) -> None:
    await cluster.load("huge", memory="900TiB", stands="unschedulable")
    async with cluster.http() as http:
        shown = (await http.get("/admin/models/huge")).json()["standing"]
        assert "no device has room: here/cpu0 has" in shown["detail"]
        assert (await http.delete("/admin/models/huge")).status_code == 202
    await cluster.until(lambda state: "huge" not in state.models, "it is unloaded")
