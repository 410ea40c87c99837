"""A model is loaded a second time: what that drops is told, and no name is lost before its time."""

import asyncio
import json

import pytest

from tests.adapters import trained
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

SLOW = {"simulate-start": 2}


async def test_a_second_load_tells_what_it_drops_and_takes_no_adapter_before_its_time(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    first = {
        "id": "twice",
        "source": "simulated",
        "memory": "64MiB",
        "options": {"simulate-tokens": 3, "seed": 5},
        "env": {"SOME": "1"},
        "adapters": [{"name": "poet", "source": trained(cluster.folder / "adapters" / "poet")}],
    }
    async with cluster.http() as http:
        answer = await http.post("/admin/models", json=first)
        assert answer.json()["changes"] == []
        await cluster.stands("twice", "ready")
        loaded = await cluster.nebula(
            "adapters", "load", "twice", "sql", trained(cluster.folder / "adapters" / "sql")
        )
        assert loaded.code == 0
        for name in ("poet", "sql"):
            assert (await http.post(CHAT, json=chat(name))).status_code == 200

        seen: list[tuple[str, int, bool]] = []

        async def old_serves() -> bool:
            state = await cluster.state()
            model = state.models["twice"]
            return any(
                replica.serving and replica.launch != model.launch
                for replica in state.replicas_of(model)
            )

        async def asks() -> None:
            while True:
                for name in ("poet", "sql"):
                    status = (await http.post(CHAT, json=chat(name))).status_code
                    seen.append((name, status, await old_serves()))

        asking = asyncio.create_task(asks())
        told = await cluster.nebula(
            *("load", "simulated", "--id", "twice", "--memory", "64MiB"),
            *("--option", "simulate-start=2"),
        )
        assert told.code == 0
        await cluster.until(lambda state: not state.models["twice"].leaving, "the adapter has gone")
        asking.cancel()
        for line in (
            "replaces the whole one before it",
            "option simulate-tokens: 3 -> not set",
            "option simulate-start: not set -> 2",
            "option seed: 5 -> not set",
            "env SOME: 1 -> not set",
            "adapter sql, loaded at run time: stays",
        ):
            assert line in told.err
        during = [each for each in seen if each[2]]
        assert {status for _, status, _ in during} == {200}, "while the old replica serves"
        assert {status for name, status, _ in seen if name == "sql"} == {200}
        assert (await http.post(CHAT, json=chat("poet"))).status_code == 404
        assert (await http.post(CHAT, json=chat("sql"))).status_code == 200

        answer = await http.post("/admin/models", json=first | {"env": {}})
        assert "env SOME: 1 -> not set" not in answer.json()["changes"]
        assert "option simulate-start: 2 -> not set" in answer.json()["changes"]
        await cluster.stands("twice", "ready")
    listed = await cluster.nebula("events", "twice", "--type", "ModelLoadRequested")
    assert "option seed 5" in listed.out
    assert "; that changes: " in listed.out
    why = await cluster.nebula("why", "twice")
    assert "option simulate-start: 2 -> not set" in why.out
    told = await cluster.nebula("load", "simulated", "--id", "twice", "--replicas", "0", "--json")
    changes = json.loads(told.out)["changes"]
    assert "replicas: 1 -> 0" in changes
    assert "adapter sql, loaded at run time: stays" in changes
    await cluster.nebula("unload", "twice")
