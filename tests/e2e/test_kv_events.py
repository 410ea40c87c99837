"""A real vLLM whose cache is too small tells which beginnings of prompts it holds no more."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
from nats.aio.subscription import Subscription

from nebula.actors.node import engine_sockets
from nebula.actors.node.launch import Site, arguments, environment
from nebula.actors.node.processes import EngineProcess
from nebula.actors.router.prefixes import digests
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.cache_news import CacheNews
from nebula.events.inference import Request
from nebula.events.memory import GIB
from nebula.events.state import Launch, Replica
from nebula.events.values import Device, OptionValue
from nebula.store.server import EmbeddedServer
from tests.conftest import Connect
from tests.e2e.conftest import DEMO
from tests.e2e.demo_cluster import CHAT, COLD_START
from tests.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(COLD_START + 60)]

BLOCKS = 10
"""Of 128 tokens, one of which vLLM keeps for itself: three prompts do not fit."""

CPU = Device(0, "cpu", "any", 16 * GIB)


async def test_vllm_s_evictions_reach_routers_as_the_digests_of_prompts(
    nats_server: EmbeddedServer, connect: Connect, tmp_path: Path
) -> None:
    options: dict[str, OptionValue] = {
        "max-model-len": 1024,
        "enforce-eager": True,
        "num-gpu-blocks-override": BLOCKS,
    }
    how = Launch(str(DEMO / CHAT), CHAT, "chat", False, None, options, {})
    replica = Replica(id="chat-0", model="chat", node="alpha", devices=(0,), memory=GIB, version=1)
    line = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    site = Site("alpha", str(tmp_path), line, nats_server.url, os.cpu_count() or 1, kv_events=True)
    port = free_port()
    events = engine_sockets.events_of(engine_sockets.place(tmp_path), port)
    engine_sockets.prepare(events)
    client = (await connect("router")).client
    caches = await client.subscribe(subjects.CACHES)
    beats = await client.subscribe(subjects.REPLICA_STATUS)
    engine = await EngineProcess.start(
        arguments(site, how, replica, CPU, port, None, events),
        environment(site, how, replica, CPU, port, os.environ, events=events),
        tmp_path / "engine.log",
    )
    try:
        await beats.next_msg(COLD_START)
        prompts = [f"{word} " * 400 for word in ("stone", "river", "light", "garden", "winter")]
        for number, prompt in enumerate(prompts):
            said = [{"role": "user", "content": prompt}]
            body = json.dumps({"model": CHAT, "max_tokens": 1, "messages": said}).encode()
            request = Request(
                f"r{number}",
                "g1",
                "chat",
                "/v1/chat/completions",
                body,
                prefix=digests(prompt.encode()),
            )
            answer = await client.subscribe(subjects.responses("g1", request.id))
            subject = subjects.replica_requests("chat", "chat-0")
            client.post(subject, envelope.request_block(request), body)
            await ended(answer)
        first = set(digests(prompts[0].encode()))
        held, gone = set[str](), set[str]()
        while not first <= gone:
            told = msgspec.json.decode((await caches.next_msg(60)).data, type=CacheNews)
            held |= set(told.held)
            gone |= set(told.gone)
            assert not told.forgotten
        assert told.evictions
        assert first <= held
    finally:
        await engine.end(10)


async def ended(answer: Subscription) -> None:
    """Wait for the end of an answer, which has to be good."""
    async with asyncio.timeout(120):
        while True:
            message = await answer.next_msg(120)
            piece = piece_envelope.read(message.headers, message.data)
            assert piece is not None
            if piece.end:
                assert piece.status == 200, piece.body
                return
