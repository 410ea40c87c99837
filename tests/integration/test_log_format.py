"""`--log-format json`: each line of every process is an object that says what it is about."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nebula.events.vocabulary import ModelAssigned
from tests.integration.asking import Heard, chat, stream
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SLOW = {"simulate-token": 0.05, "simulate-tokens": 40}


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a process's log, in which each line must be an object."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found, f"{path} is empty"
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    return found


async def test_every_line_is_an_object_and_names_its_request_trace_and_event(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--log-format", "json")
    await cluster.ready()
    await cluster.load("chat", replicas=2, memory="64MiB", options=SLOW)
    heard = Heard()
    async with cluster.http() as http:
        http.headers.update(PARENT)
        streaming = asyncio.create_task(stream(http, chat("chat"), heard))

        async def begun() -> bool:
            return len(heard.chunks) > 3

        await cluster.poll(begun, "the stream has begun")
        busy = [n for n in range(2) if (await cluster.engine_says(f"chat-{n}"))["running"]]
        os.kill((await cluster.engine(f"chat-{busy[0]}")).pid, signal.SIGKILL)
        await streaming
    assert heard.whole
    logs = cluster.folder / "home" / "logs"
    said = {name: lines(logs / f"{name}.log") for name in ("gateway", "node", "router-0")}
    said["up"] = lines(cluster.folder / "up.log")
    assert any(line["message"].startswith("Nebula is up: http") for line in said["up"])
    (attempt,) = [line for line in said["gateway"] if "attempt 2" in line["message"]]
    assert attempt["request_id"] == heard.request
    assert attempt["trace_id"] == TRACE
    first, *_ = await cluster.records(ModelAssigned, identity="chat")
    (placed,) = [line for line in said["router-0"] if line.get("event_seq") == first.seq]
    assert placed["message"] == "ModelAssigned chat"
    assert placed["cause_seq"] == first.cause


async def test_why_a_child_can_t_run_is_told_in_this_form_too(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.start("router")
    cluster.start("gateway")
    await cluster.ready()
    cluster.stop("gateway")
    cluster.up("--log-format", "json", "--cluster", "another", own_nats=False)
    assert cluster.ended("up") != 0
    said = lines(cluster.folder / "up.log")
    (why,) = [line["message"] for line in said if line["level"] == "critical"]
    assert "another" in why
    assert not why.startswith("{")
