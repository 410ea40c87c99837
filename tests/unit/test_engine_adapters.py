"""The versions of adapters in an engine: names that clients do not see, and how long each stays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.adapters import Adapters, Loaded, WantedAdapter
from nebula.actors.engine.exchange import Message, Receive, Scope, Send, http_scope
from nebula.actors.engine.versions import Version, internal

pytestmark = pytest.mark.anyio

OLD, NEW = "a" * 64, "b" * 64


class Engine:
    """An ASGI app that takes adapters as vLLM does; `refusal` is what it says of the next one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refusal = ""
        self.unloaded = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wish = json.loads((await receive())["body"])
        if self.refusal:
            body = {"error": {"message": f"{wish['lora_name']}: {self.refusal}"}}
            status, self.refusal = 500, ""
        else:
            status, body = 200, {}
            if scope["path"] == "/v1/load_lora_adapter":
                assert wish["lora_path"]
                self.names.append(wish["lora_name"])
            else:
                self.names.remove(wish["lora_name"])
                self.unloaded.set()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def test_versions_are_beside_one_another_and_the_newest_is_the_one_without_a_digest() -> None:
    engine = Engine()
    adapters = Adapters(engine, linger=0.01)
    assert await adapters.load(WantedAdapter("poet", OLD, "/c/a")) == (200, b"{}")
    assert await adapters.load(WantedAdapter("poet", NEW, "/c/b")) == (200, b"{}")
    assert engine.names == [internal("poet", OLD), internal("poet", NEW)]
    assert adapters.find("poet", OLD) == Version("poet", internal("poet", OLD), OLD)
    newest = adapters.find("poet", "")
    assert newest is not None
    assert newest.digest == NEW
    assert adapters.find("poet", "c" * 64) is None
    assert adapters.find("other", "") is None
    await adapters.load(WantedAdapter("poet", OLD, "/c/a"))
    assert len(engine.names) == 2, "what is there is not loaded again"


async def test_a_version_that_is_let_go_stays_for_the_requests_that_use_it() -> None:
    engine = Engine()
    adapters = Adapters(engine, linger=0.01)
    await adapters.load(WantedAdapter("poet", OLD, "/c/a"))
    old = adapters.find("poet", OLD)
    assert old is not None
    adapters.came(old)
    adapters.release("poet", OLD)
    await asyncio.sleep(0.05)
    assert engine.names == [old.own]
    assert adapters.find("poet", OLD) == old, "a router may not know yet"
    assert adapters.loaded() == Loaded((OLD,))
    adapters.left(old)
    async with asyncio.timeout(5):
        await engine.unloaded.wait()
    assert engine.names == []
    assert adapters.find("poet", OLD) is None
    assert adapters.loaded() == Loaded(())


async def test_a_version_that_is_wanted_again_meanwhile_stays() -> None:
    engine = Engine()
    adapters = Adapters(engine, linger=0.02)
    await adapters.load(WantedAdapter("poet", OLD, "/c/a"))
    adapters.release("poet", "")
    await adapters.load(WantedAdapter("poet", OLD, "/c/a"))
    await asyncio.sleep(0.1)
    assert engine.names == [internal("poet", OLD)]


async def test_what_the_engine_refuses_changes_nothing_and_is_told_with_the_public_name() -> None:
    engine = Engine()
    adapters = Adapters(engine)
    await adapters.load(WantedAdapter("poet", OLD, "/c/a"))
    engine.refusal = "rank 64"
    status, said = await adapters.load(WantedAdapter("poet", NEW, "/c/b"))
    assert (status, json.loads(said)) == (500, {"error": {"message": "poet: rank 64"}})
    newest = adapters.find("poet", "")
    assert newest is not None
    assert newest.digest == OLD


async def test_its_node_asks_over_http() -> None:
    adapters = Adapters(Engine(), linger=0.01)

    async def ask(method: str, body: bytes) -> tuple[int, Any]:
        got: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            got.append(message)

        await adapters.answer(http_scope(method, "/nebula/adapters"), receive, send)
        return got[0]["status"], json.loads(got[1]["body"])

    wish = msgspec.json.encode(WantedAdapter("poet", OLD, "/c/a"))
    assert await ask("POST", wish) == (200, {})
    assert await ask("GET", b"") == (200, {"digests": [OLD]})
    assert await ask("DELETE", wish) == (200, {})
    assert adapters.find("poet", "") is None
    assert (await ask("POST", b"[]"))[0] == 400


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_ascii_that_json_writes_as_it_is_and_differ(one: str, other: str) -> None:
    own = internal(one, OLD)
    assert json.dumps(own) == f'"{own}"' == msgspec.json.encode(own).decode()
    assert own.isascii()
    assert (own == internal(other, OLD)) == (one == other)
    assert own != internal(one, NEW)


@given(st.text(min_size=1), st.text())
def test_clients_see_the_public_name_and_their_text_as_it_was(name: str, text: str) -> None:
    version = Version(name, internal(name, OLD), OLD)
    asked = json.loads(version.asks(json.dumps({"model": name, "prompt": text}).encode()))
    assert asked == {"model": version.own, "prompt": text}
    said = f'"model":"{version.own}" {text}'
    answer = {"id": "x", "model": version.own, "choices": [{"text": said}]}
    for written in (json.dumps(answer), json.dumps(answer, separators=(",", ":"))):
        seen = json.loads(version.answers(written.encode(), 200))
        assert seen == {**answer, "model": name}


def test_an_error_s_words_name_the_adapter_as_its_client_does() -> None:
    version = Version('a "b"', internal('a "b"', OLD), OLD)
    words = json.dumps({"error": {"message": f"The model `{version.own}` does not exist."}})
    seen = json.loads(version.answers(words.encode(), 404))
    assert seen == {"error": {"message": 'The model `a "b"` does not exist.'}}


def test_a_body_that_is_not_json_is_left_to_the_engine() -> None:
    assert Version("a", internal("a", OLD), OLD).asks(b"{") == b"{"
