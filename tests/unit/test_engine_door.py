"""That no web page speaks to an engine's own port, and its node does."""

import asyncio
import json
from typing import Any

import pytest

from nebula.actors.engine.door import from_a_page, refusal, refuse

HERE = (b"host", b"127.0.0.1:43029")


@pytest.mark.parametrize(
    "headers",
    [
        [HERE, (b"origin", b"https://evil.example")],
        [HERE, (b"origin", b"null")],
        [HERE, (b"origin", b"http://127.0.0.1:43029")],
        [HERE, (b"sec-fetch-site", b"cross-site")],
        [HERE, (b"sec-fetch-site", b"same-origin")],
        [(b"host", b"evil.example:43029")],
        [(b"host", b"127.0.0.1.evil.example")],
        [(b"host", b"")],
    ],
)
def test_a_page_is_told_apart(headers: list[tuple[bytes, bytes]]) -> None:
    assert from_a_page(headers)


@pytest.mark.parametrize(
    "headers",
    [
        [HERE],
        [],
        [(b"host", b"LOCALHOST:1"), (b"sec-fetch-site", b"none")],
        [(b"host", b"localhost.:1")],
    ],
)
def test_a_program_of_the_machine_is_let_through(headers: list[tuple[bytes, bytes]]) -> None:
    assert not from_a_page(headers)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_it_is_refused_in_its_own_protocol(kind: str) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(refuse("foreign_page", kind, receive, send))
    if kind == "websocket":
        assert sent == [{"type": "websocket.close", "code": 1008}]
    else:
        assert sent[0]["status"] == 403
        assert json.loads(sent[1]["body"])["error"]["code"] == "foreign_page"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "invalid_api_key"),
        ([(b"authorization", b"Bearer other")], "invalid_api_key"),
        ([(b"authorization", b"k3y")], "invalid_api_key"),
        ([(b"authorization", b"Bearer ")], "invalid_api_key"),
        (
            [(b"authorization", b"Bearer other"), (b"authorization", b"Bearer k3y")],
            "invalid_api_key",
        ),
        ([(b"authorization", b"Bearer k3y")], ""),
        ([(b"authorization", b"Bearer k3y"), (b"origin", b"null")], "foreign_page"),
    ],
)
def test_an_engine_with_a_key_lets_in_only_what_has_it(
    given: list[tuple[bytes, bytes]], why: str
) -> None:
    assert refusal([HERE, *given], "k3y") == why


def test_an_engine_without_a_key_needs_none() -> None:
    assert refusal([HERE], "") == ""
    assert refusal([HERE, (b"authorization", b"Bearer any")], "") == ""


def test_what_has_no_key_is_told_that_it_needs_one() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(refuse("invalid_api_key", "http", send, send))
    assert sent[0]["status"] == 401
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "invalid_api_key"
