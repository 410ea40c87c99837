"""What pages of other origins are told, and which paths are never opened to them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nebula.http.cors import METHODS, Cors, preflight
from nebula.http.document.entries import ENTRIES
from nebula.http.errors import ApiError
from nebula.http.guard import Guard
from nebula.http.origins import Doors, let_in, plain_origin
from nebula.http.relay import fail

APP = b"https://app.example"
HOST = (b"host", b"127.0.0.1:8000")
ONE, ALL = Doors(origins=("https://app.example",)), Doors(origins=("*",))
ASKS = [
    HOST,
    (b"origin", APP),
    (b"sec-fetch-site", b"cross-site"),
    (b"access-control-request-method", b"POST"),
    (b"access-control-request-headers", b"authorization,content-type,x-stainless-lang"),
]


def asked(
    headers: list[tuple[bytes, bytes]], path: str, doors: Doors = ONE, method: str = "GET"
) -> tuple[int, dict[bytes, bytes]]:
    """What a gateway's server is told to answer; behind the guard everything is a 404."""
    sent: list[Any] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await fail(ApiError(404, "no such model"), send)

    async def nothing() -> Any:
        raise AssertionError("nobody reads a body")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Cors(Guard(app, doors), doors)(scope, nothing, send))  # type: ignore[arg-type]
    assert not sent[-1]["more_body"]
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/streams/x", "/v1/new"])
def test_a_preflight_of_an_allowed_page_gets_origin_methods_and_the_headers_it_asks_for(
    path: str,
) -> None:
    status, headers = asked(ASKS, path, method="OPTIONS")
    assert status == 204
    assert headers[b"access-control-allow-origin"] == APP
    assert headers[b"vary"] == b"Origin"
    assert b"POST" in headers[b"access-control-allow-methods"].split(b", ")
    assert headers[b"access-control-allow-headers"] == ASKS[-1][1]
    assert b"access-control-allow-credentials" not in headers


def test_every_answer_below_v1_can_be_read_by_an_allowed_page_with_what_its_headers_say() -> None:
    status, headers = asked([HOST, (b"origin", APP)], "/v1/models/no")
    assert (status, headers[b"access-control-allow-origin"]) == (404, APP)
    exposed = headers[b"access-control-expose-headers"].split(b", ")
    assert {b"x-request-id", b"retry-after", b"x-nebula-model"} <= set(exposed)
    status, headers = asked([(b"host", b"evil.example"), (b"origin", APP)], "/v1/models")
    assert (status, headers[b"access-control-allow-origin"]) == (421, APP)
    status, headers = asked([HOST], "/v1/models")
    assert (status, headers[b"vary"]) == (404, b"Origin"), "what is kept of it is for no page"
    assert b"access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", ["/admin/models", "/ready", "/", "/v1/../admin/models", "/V1/x"])
def test_nothing_but_v1_is_opened(path: str, method: str) -> None:
    for doors in (ONE, ALL):
        status, headers = asked(ASKS, path, doors, method)
        assert status == 403
        assert not [name for name in headers if name.startswith(b"access-control")]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_page_that_is_not_allowed_gets_nothing_from_it(method: str) -> None:
    foreign = [*ASKS[:1], (b"origin", b"https://evil.example"), *ASKS[2:]]
    for headers in (foreign, [*foreign, (b"origin", APP)]):
        status, told = asked(headers, "/v1/models", method=method)
        assert status == 403
        assert not [name for name in told if name.startswith(b"access-control")]


def test_all_pages_are_let_in_without_naming_the_page() -> None:
    for origin in (APP, b"null", b"tauri://localhost"):
        status, headers = asked([HOST, (b"origin", origin)], "/v1/models", ALL)
        assert (status, headers[b"access-control-allow-origin"]) == (404, b"*")
        assert b"vary" not in headers


def test_what_is_not_a_list_of_names_is_not_told_back_and_networks_are_opened_where_asked() -> None:
    ask = [(b"origin", APP), (b"access-control-request-method", b"POST")]
    told = preflight([*ask, (b"access-control-request-headers", b"a\x1b[0m, b")])
    assert told is not None
    assert b"access-control-allow-headers" not in dict(told)
    told = preflight([*ask, (b"access-control-request-private-network", b"true")])
    assert told is not None
    assert dict(told)[b"access-control-allow-private-network"] == b"true"
    assert preflight(ask[:1]) is None


@pytest.mark.parametrize(
    ("given_as", "named"),
    [
        ("*", "*"),
        ("https://App.Example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_an_allowed_origin_is_kept_as_a_browser_names_it(given_as: str, named: str) -> None:
    assert plain_origin(given_as) == named
    assert let_in(Doors(origins=(plain_origin(given_as),)), named, "/v1/models")


@pytest.mark.parametrize(
    "text",
    ["", "null", "app.example", "https://", "https://a.b/path", "https://a b", "//a"],
)
def test_what_is_not_an_origin_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin: write https://NAME"):
        plain_origin(text)


def test_pages_may_use_every_method_of_the_paths_for_clients() -> None:
    used = {key.partition(" ")[0] for key in ENTRIES if " /v1/" in key}
    assert used <= set(METHODS.decode().split(", "))
