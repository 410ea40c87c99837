"""That no web page speaks to an engine's own port, and its node does."""

import asyncio
import json
from typing import Any

import pytest

from nebula.actors.engine.door import from_a_page, refuse

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

    asyncio.run(refuse(kind, receive, send))
    if kind == "websocket":
        assert sent == [{"type": "websocket.close", "code": 1008}]
    else:
        assert sent[0]["status"] == 403
        assert json.loads(sent[1]["body"])["error"]["code"] == "foreign_page"
