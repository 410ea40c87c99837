"""Offers to go on in another protocol are passed over: the request is as it were without them.

RFC 9110 7.8: "A server MAY ignore a received Upgrade header field", and 9.3.6 on CONNECT.
"""

import asyncio

import pytest

from tests.integration.cluster import Cluster
from tests.integration.wire import BODY, Answer, Wire, ask_chat, chunked, request

OFFERS = ["h2c", "websocket", "foo", "TLS/1.2", "h2c, websocket", "HTTP/2.0"]
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAA")


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


def said(answer: Answer) -> str:
    assert answer.status == 200, answer
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_changes_nothing_and_the_connection_goes_on(cluster: Cluster, offer: str) -> None:
    fields = ("Connection: Upgrade", f"Upgrade: {offer}")
    with Wire(cluster.port) as wire:
        for _ in range(2):
            assert said(wire.ask(ask_chat(*fields))) == "a b c d"
        assert said(wire.ask(ask_chat())) == "a b c d"


@pytest.mark.parametrize("cut", [3, 40, 95, -len(BODY) - 1, -len(BODY), -5])
def test_wherever_the_request_is_cut_into_packets(cluster: Cluster, cut: int) -> None:
    whole = ask_chat(*H2C)
    with Wire(cluster.port) as wire:
        assert said(wire.ask(whole[:cut], whole[cut:])) == "a b c d"
        assert said(wire.ask(ask_chat())) == "a b c d"


def test_a_body_in_chunks_is_read_as_well(cluster: Cluster) -> None:
    whole = chunked(BODY[:9], BODY[9:], fields=H2C)
    with Wire(cluster.port) as wire:
        assert said(wire.ask(whole)) == "a b c d"
        assert said(wire.ask(whole[:-20], whole[-20:])) == "a b c d"


def test_requests_in_a_row_that_all_offer_it_are_answered_in_their_order(cluster: Cluster) -> None:
    get = request("GET /v1/models HTTP/1.1", *H2C)
    with Wire(cluster.port) as wire:
        wire.send(ask_chat(*H2C) + get + ask_chat(*H2C))
        assert said(wire.answer()) == "a b c d"
        assert wire.answer().json()["object"] == "list"
        assert said(wire.answer()) == "a b c d"


@pytest.mark.parametrize("offer", ["h2c", "websocket", "foo"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_late_bytes_of_a_body_are_never_another_request(
    cluster: Cluster, offer: str, method: str
) -> None:
    hidden = request(f"{method} /admin/models/chat HTTP/1.1", host="localhost")
    head = ask_chat("Connection: Upgrade", f"Upgrade: {offer}", body=hidden)[: -len(hidden)]
    with Wire(cluster.port) as wire:
        answer = wire.ask(head, hidden)
        assert answer.status == 400
        assert answer.error["code"] == "invalid_json"
        assert wire.silent()
        assert said(wire.ask(ask_chat())) == "a b c d"


def test_a_stream_is_a_stream(cluster: Cluster) -> None:
    body = BODY[:-1] + b',"stream":true}'
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat(*H2C, body=body))
    assert answer.fields["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/v1/models", "/admin/nodes", "/ready", "/v1/streams/none"])
def test_a_websocket_is_answered_like_any_get(cluster: Cluster, path: str) -> None:
    fields = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"GET {path} HTTP/1.1", *fields))
        assert answer.status == (404 if "streams" in path else 200)
        assert wire.ask(request()).status == 200


def test_the_http_1_0_of_a_proxy_may_not_even_offer(cluster: Cluster) -> None:
    """RFC 9110 7.8: a server MUST ignore an Upgrade that is received in HTTP/1.0."""
    with Wire(cluster.port) as wire:
        assert said(wire.ask(ask_chat(*H2C, version="1.0"))) == "a b c d"
        assert wire.rest() == b""


def test_framing_is_as_strict_behind_an_offer_as_without_it(cluster: Cluster) -> None:
    fields = (*H2C, "Transfer-Encoding: gzip")
    with Wire(cluster.port) as wire:
        assert wire.ask(request("POST /v1/chat/completions HTTP/1.1", *fields)).status == 400
        assert wire.rest() == b""


def test_connect_is_refused_and_nothing_behind_it_is_read(cluster: Cluster) -> None:
    tunnelled = request("GET /v1/models HTTP/1.1")
    with Wire(cluster.port) as wire:
        answer = wire.ask(request("CONNECT x:80 HTTP/1.1", host="x:80") + tunnelled)
        assert answer.status == 501
        assert wire.rest() == b""


def test_the_preface_of_http_2_is_told_which_version_is_spoken(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert answer.status == 505
        assert "HTTP/1.1" in answer.error["message"]
        assert wire.rest() == b""
