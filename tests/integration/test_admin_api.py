"""The admin API: what it takes, what it refuses, and how it says so."""

import asyncio
from functools import partial
from typing import Any

import pytest

from nebula.events.intents import ModelLoadRequested
from nebula.events.state import State
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


def has_replicas(wanted: int, state: State) -> bool:
    return len(state.models["small"].replicas) == wanted


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        adapters = [{"name": "pirate", "source": trained(cluster.folder / "pirate")}]
        await cluster.load("chat", name="org/chat", adapters=adapters)

    asyncio.run(load())


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({}, 400, "source", "source"),
        ({"source": ""}, 400, "source", "at least 1 character"),
        ({"source": 5}, 400, "source", "source must be a string"),
        ({"source": "-x/y"}, 400, "source", "neither a folder nor a hub id"),
        ({"source": "m", "sauce": "x"}, 400, "sauce", "there is no field 'sauce'"),
        ({"source": "m", "task": "paint"}, 400, "task", "paint"),
        ({"source": "m", "replicas": -1}, 400, "replicas", "must be 0 or more"),
        ({"source": "m", "replicas": "two"}, 400, "replicas", "replicas must be a whole number"),
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
        ({"source": "m", "name": "x" * 257}, 400, "name", "at most 256 characters"),
        ({"source": "m", "id": "a.b"}, 400, "id", "is not a valid id"),
        ({"source": "m", "id": "x" * 129}, 400, "id", "128 at most"),
        ({"source": "m", "id": 7}, 400, "id", "is not a valid id"),
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


async def test_an_idempotency_key_of_one_intent_never_swallows_another(cluster: Cluster) -> None:
    key = {"Idempotency-Key": "deploy-42"}
    request = {"id": "kept", "source": "simulated", "replicas": 0}
    async with cluster.http() as http:
        first = await http.post("/admin/models", json=request, headers=key)
        assert first.status_code == 202
        for method, path, body in (
            ("DELETE", "/admin/models/kept", None),
            ("PATCH", "/admin/models/kept", {"replicas": 1}),
            ("POST", "/admin/models", request | {"max_waiting": 7}),
            ("POST", "/admin/models", request | {"id": "other"}),
            ("PUT", "/admin/aliases/a", {"name": "a", "targets": [{"model": "org/chat"}]}),
        ):
            refused = error(await http.request(method, path, json=body, headers=key), 422)
            assert refused["code"] == "idempotency_key_reused"
        again = await http.post("/admin/models", json=request, headers=key)
        assert again.json()["seq"] == first.json()["seq"]
        somebody = key | {"Authorization": "Bearer else"}
        gone = await http.delete("/admin/models/kept", headers=somebody)
        assert gone.status_code == 202
        assert gone.json()["seq"] > first.json()["seq"]


async def test_an_intent_that_is_repeated_gives_the_first_one_s_answer(cluster: Cluster) -> None:
    wish = {"name": "mine", "targets": [{"model": "org/chat"}], "replaces": 0}
    async with cluster.http() as http:
        seqs = set()
        for _ in range(2):
            answer = await http.put(
                "/admin/aliases/mine", json=wish, headers={"Idempotency-Key": "alias-1"}
            )
            assert answer.status_code == 202, answer.text
            seqs.add(answer.json()["seq"])
        assert len(seqs) == 1
        error(await http.put("/admin/aliases/mine", json=wish), 409)


async def test_a_repeated_removal_gives_the_first_one_s_answer(cluster: Cluster) -> None:
    """Even where others of its kind came meanwhile, and what it took away is there again."""
    unused = {"source": "simulated", "replicas": 0, "lora": True}
    target = {"targets": [{"model": "org/chat"}]}
    async with cluster.http() as http:

        async def make() -> None:
            for name in ("one", "two"):
                adapter = {"name": f"of-chat-{name}", "source": f"/{name}"}
                wish = target | {"name": f"alias-{name}"}
                for answer in (
                    await http.post("/admin/models", json=unused | {"id": f"gone-{name}"}),
                    await http.post("/admin/models/gone/adapters", json=adapter),
                    await http.put(f"/admin/aliases/gone-{name}", json=wish),
                    await http.post("/admin/nodes/here/drain"),
                ):
                    assert answer.status_code == 202, answer.text

        async def remove(path: str, key: str = "") -> int:
            headers = {"Idempotency-Key": key} if key else {}
            answer = await http.delete(path, headers=headers)
            assert answer.status_code == 202, answer.text
            seq: int = answer.json()["seq"]
            return seq

        paths = [
            "/admin/models/gone/adapters/of-chat-one",
            "/admin/models/gone-one",
            "/admin/aliases/gone-one",
            "/admin/nodes/here/drain",
        ]
        answer = await http.post("/admin/models", json=unused | {"id": "gone"})
        assert answer.status_code == 202, answer.text
        await make()
        first = {path: await remove(path, f"of {path}") for path in paths}
        assert first == {path: await remove(path, f"of {path}") for path in paths}
        await cluster.until(lambda state: "gone-one" not in state.models, "the model is gone")
        for path in paths:
            error(await http.delete(path), 404)
            error(await http.delete(path, headers={"Idempotency-Key": "another"}), 404)

        await remove("/admin/models/gone/adapters/of-chat-two")
        assert first == {path: await remove(path, f"of {path}") for path in paths}
        other = "/admin/models/gone/adapters/of-chat-two"
        reused = await http.delete(other, headers={"Idempotency-Key": f"of {paths[0]}"})
        assert error(reused, 422)["code"] == "idempotency_key_reused"

        await make()
        assert first == {path: await remove(path, f"of {path}") for path in paths}
        for path in paths:
            await remove(path)
        await remove("/admin/models/gone")


async def test_no_idempotency_key_takes_the_message_id_of_an_actor(cluster: Cluster) -> None:
    seq = await cluster.last_seq()
    async with cluster.http() as http:
        for number in range(seq + 1, seq + 6):
            key = {"Idempotency-Key": f"rejected-{number}"}
            body = {"id": f"m{number}", "source": "simulated", "replicas": 0}
            assert (await http.post("/admin/models", json=body, headers=key)).status_code == 202
    reason = await cluster.publish_rejected("nebula.events.model.bad.ModelLoadRequested", b"{}")
    assert "source" in reason


async def test_a_model_is_loaded_shown_scaled_and_unloaded_over_http(cluster: Cluster) -> None:
    async with cluster.http() as http:
        request = {"source": "org/small", "memory": "128MiB", "replicas": 2}
        accepted = (await http.post("/admin/models", json=request)).json()
        assert accepted["id"] == "small", "the id comes from the source's last part"
        await cluster.stands("small")
        shown = (await http.get("/admin/models/small")).json()
        ready = {"phase": "ready", "ready": 2, "wanted": 2, "detail": "", "changing": 0}
        assert shown["status"] == ready
        assert shown["replicas"] == ["small-0", "small-1"]

        for wanted in (3, 1):
            assert (await http.patch("/admin/models/small", json={"replicas": wanted})).is_success
            await cluster.until(partial(has_replicas, wanted), f"{wanted} replicas")
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
        shown = (await http.get("/admin/models/huge")).json()["status"]
        assert "no device has room: here/cpu0 has" in shown["detail"]
        assert (await http.delete("/admin/models/huge")).status_code == 202
    await cluster.until(lambda state: "huge" not in state.models, "it is unloaded")
