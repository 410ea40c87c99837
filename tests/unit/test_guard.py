"""That the door stands in front of every path, and lets programs through."""

import asyncio
from typing import Any

import msgspec
import pytest

from nebula.http.guard import Guard
from nebula.http.origins import Doors

PATHS = ["/v1/chat/completions", "/v1/models", "/admin/models", "/ready", "/nowhere"]
HOST = (b"host", b"127.0.0.1:8000")
EVIL = (b"origin", b"https://evil.example")


def asked(
    headers: list[tuple[bytes, bytes]],
    path: str = "/admin/models",
    doors: Doors | None = None,
) -> list[Any]:
    """Return what is sent for a request; ["let through"] where it reaches the app."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append("let through")

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(Guard(app, doors or Doors())(scope, receive, send))  # type: ignore[arg-type]
    return sent


def refused(sent: list[Any]) -> tuple[int, str, str]:
    """Return the status, code and message of a refusal."""
    start, body = sent
    error = msgspec.json.decode(body["body"])["error"]
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert set(error) == {"message", "type", "param", "code"}
    return start["status"], error["code"], error["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([HOST, EVIL], 403, "foreign_origin"),
        ([HOST, (b"origin", b"null")], 403, "foreign_origin"),
        ([HOST, (b"origin", b"http://127.0.0.1:8000"), EVIL], 403, "foreign_origin"),
        ([EVIL], 403, "foreign_origin"),
        ([HOST, (b"sec-fetch-site", b"cross-site")], 403, "foreign_site"),
        ([HOST, (b"sec-fetch-site", b"same-site")], 403, "foreign_site"),
        ([HOST, (b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")], 403,
         "foreign_site"),
        ([HOST, (b"origin", b"http://127.0.0.1:8000"), (b"sec-fetch-site", b"cross-site")], 403,
         "foreign_site"),
        ([(b"host", b"evil.example:8000")], 421, "foreign_host"),
        ([(b"host", b"evil.example"), (b"origin", b"http://evil.example")], 421, "foreign_host"),
        ([HOST, (b"host", b"evil.example")], 421, "foreign_host"),
        ([(b"host", b"evil.example"), (b"x-forwarded-host", b"localhost")], 421, "foreign_host"),
        ([(b"host", b"user@localhost")], 400, "bad_host"),
    ],
)  # fmt: skip
def test_a_foreign_page_is_refused_on_every_path(
    headers: list[tuple[bytes, bytes]], status: int, code: str, path: str
) -> None:
    assert refused(asked(headers, path))[:2] == (status, code)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        [HOST],
        [],
        [HOST, (b"content-type", b"application/x-www-form-urlencoded")],
        [HOST, (b"origin", b"http://127.0.0.1:8000"), (b"sec-fetch-site", b"same-origin")],
        [HOST, (b"sec-fetch-site", b"none")],
        [(b"host", b"localhost"), (b"x-forwarded-host", b"llm.example.org")],
    ],
)
def test_programs_and_own_pages_are_let_through(
    headers: list[tuple[bytes, bytes]], path: str
) -> None:
    assert asked(headers, path) == ["let through"]


def test_a_page_that_was_let_in_gets_v1_and_nothing_else() -> None:
    doors = Doors(origins=("https://app.example",))
    page = [HOST, (b"origin", b"https://app.example"), (b"sec-fetch-site", b"cross-site")]
    assert asked(page, "/v1/models", doors) == ["let through"]
    assert refused(asked(page, "/admin/models", doors))[0] == 403
    assert refused(asked([*page, EVIL], "/v1/models", doors))[0] == 403


def test_a_refusal_says_what_to_do_and_repeats_no_more_than_it_must() -> None:
    _, _, message = refused(asked([(b"host", b"llm.example.org")]))
    assert "--allowed-host 'llm.example.org'" in message
    _, _, message = refused(asked([HOST, (b"origin", b"https://" + b"\x1b]0;x\x07" * 5000)]))
    assert len(message) < 1500
    assert "\x1b" not in message
