"""What an answer looks like: RFC 9110 6 to 15, clause by clause, on the wire.

Each test names its clause; docs/http.md has the table.
"""

import asyncio
import time
from email.utils import parsedate_to_datetime

import msgspec
import pytest

from nebula.http.inference import LARGEST_BODY
from tests.integration.cluster import Cluster
from tests.integration.wire import BODY, Wire, ask_chat, request

GET = request()
CHAT = "POST /v1/chat/completions HTTP/1.1"
ALIAS = msgspec.json.encode({"targets": [{"model": "chat"}]})


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


# RFC 9110 6.6.1: Date


def test_9110_6_6_1_every_answer_has_the_date(cluster: Cluster) -> None:
    for sent in (GET, request("GET /none HTTP/1.1"), request(host=""), ask_chat(), b"x\r\n\r\n"):
        with Wire(cluster.port) as wire:
            dated = parsedate_to_datetime(wire.ask(sent).fields["date"]).timestamp()
            assert abs(dated - time.time()) < 60


# RFC 9110 9.3.2: HEAD


@pytest.mark.parametrize(
    "path", ["/v1/models", "/health", "/ready", "/admin/nodes", "/v1/models/x"]
)
def test_9110_9_3_2_head_is_get_without_the_content(cluster: Cluster, path: str) -> None:
    with Wire(cluster.port) as wire:
        get = wire.ask(request(f"GET {path} HTTP/1.1"))
        head = wire.ask(request(f"HEAD {path} HTTP/1.1"), method="HEAD")
        assert head.status == get.status
        assert head.fields["content-type"] == get.fields["content-type"]
        assert "transfer-encoding" not in head.fields
        assert wire.silent(0.1)
        assert wire.ask(GET).status == 200


def test_9110_9_3_2_a_head_that_is_refused_has_no_content_either(cluster: Cluster) -> None:
    for sent in (
        request("HEAD /none HTTP/1.1"),
        request("HEAD /v1/chat/completions HTTP/1.1"),
        request("HEAD /v1/models HTTP/1.1", host="a b"),
        request("HEAD /v1/models HTTP/1.1", "Expect: more"),
    ):
        with Wire(cluster.port) as wire:
            refused = wire.ask(sent, method="HEAD")
            assert refused.status >= 400
            if refused.fields.get("connection") == "close":
                assert wire.rest() == b""
            else:  # the next answer stands where content would
                assert wire.ask(request("GET /v1/models HTTP/1.1")).status == 200


# RFC 9110 9.3.7: OPTIONS


@pytest.mark.parametrize("target", ["*", "http://localhost"])
def test_9110_9_3_7_options_of_the_server(cluster: Cluster, target: str) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"OPTIONS {target} HTTP/1.1"))
        assert answer.status == 200
        assert {"GET", "HEAD", "POST"} <= set(answer.fields["allow"].split(", "))
        assert wire.ask(GET).status == 200


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/models", {"GET"}), ("/admin/models", {"GET", "POST"})]
)
def test_9110_9_3_7_options_of_a_path(cluster: Cluster, path: str, methods: set[str]) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"OPTIONS {path} HTTP/1.1"))
        assert answer.status in (200, 204)
        assert methods <= set(answer.fields["allow"].split(", "))
        assert wire.ask(GET).status == 200


# RFC 9110 10.1.1: Expect


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_9110_10_1_1_expecting_100_continue_is_answered_with_it(
    cluster: Cluster, value: str
) -> None:
    sent = ask_chat(f"Expect: {value}")
    with Wire(cluster.port) as wire:
        for _ in range(2):
            wire.send(sent[: -len(BODY)])
            assert not wire.silent(5)
            answer = wire.ask(BODY)
            assert answer.status == 200
            assert answer.interim == (100,)


def test_9110_10_1_1_not_where_the_body_has_come(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat("Expect: 100-continue"))
        assert (answer.status, answer.interim) == (200, ())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/admin/models", "/none", "/v1/models"])
def test_9110_10_1_1_a_refusal_is_sent_before_the_body(cluster: Cluster, path: str) -> None:
    fields = ("Content-Length: 99999999999", "Expect: 100-continue")
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"POST {path} HTTP/1.1", *fields))
        assert answer.status in (404, 405, 413)
        assert answer.interim == ()
        assert answer.fields["connection"] == "close"
        assert wire.rest() == b""


def test_9110_10_1_1_a_client_of_http_1_0_does_not_get_it(cluster: Cluster) -> None:
    sent = ask_chat("Expect: 100-continue", version="1.0")
    with Wire(cluster.port) as wire:
        answer = wire.ask(sent[: -len(BODY)], BODY)
        assert (answer.status, answer.interim) == (200, ())


@pytest.mark.parametrize("value", ["200-ok", "100-continue, more", "payment"])
def test_9110_15_5_18_another_expectation_is_a_417(cluster: Cluster, value: str) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat(f"Expect: {value}"))
        assert answer.status == 417
        assert wire.rest() == b""


# RFC 9110 13: conditions; 14.5: parts


def test_9110_13_1_1_a_change_of_what_has_another_tag_is_not_made(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        tag = 'If-Match: "some-tag"'
        answer = wire.ask(request("DELETE /admin/models/chat HTTP/1.1", tag))
        assert answer.status == 412
        answer = wire.ask(request("PUT /admin/aliases/new HTTP/1.1", "If-Match: *", body=ALIAS))
        assert answer.status == 412
        assert wire.ask(request("GET /admin/aliases/new HTTP/1.1")).status == 404


def test_9110_13_1_2_creating_something_overwrites_nothing(cluster: Cluster) -> None:
    put = request("PUT /admin/aliases/once HTTP/1.1", "If-None-Match: *", body=ALIAS)
    with Wire(cluster.port) as wire:
        assert wire.ask(put).status == 202
        assert wire.ask(put).status == 412
        again = request("PUT /admin/aliases/once HTTP/1.1", "If-Match: *", body=ALIAS)
        assert wire.ask(again).status == 202


def test_9110_14_5_a_part_is_not_put_for_the_whole(cluster: Cluster) -> None:
    part = "Content-Range: bytes 0-9/20"
    with Wire(cluster.port) as wire:
        answer = wire.ask(request("PUT /admin/aliases/part HTTP/1.1", part, body=ALIAS))
        assert answer.status == 400
        assert wire.ask(request("GET /admin/aliases/part HTTP/1.1")).status == 404


# RFC 9110 15: status codes


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("DELETE", "/v1/models", {"GET"}),
        ("PUT", "/admin/models", {"GET", "POST"}),
        ("POST", "/health", {"GET"}),
        ("PATCH", "/v1/embeddings", {"POST"}),
    ],
)
def test_9110_15_5_6_a_method_that_a_path_has_not_is_a_405_with_allow(
    cluster: Cluster, method: str, path: str, allowed: set[str]
) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"{method} {path} HTTP/1.1"))
        assert answer.status == 405
        assert allowed <= set(answer.fields["allow"].replace(" ", "").split(","))
        assert wire.ask(GET).status == 200


def test_9110_6_4_1_an_answer_without_content_says_nothing_of_its_length(cluster: Cluster) -> None:
    """RFC 9110 8.6, RFC 9112 6.1: neither Content-Length nor Transfer-Encoding in a 204."""
    with Wire(cluster.port) as wire:
        answer = wire.ask(request("OPTIONS /v1/models HTTP/1.1"))
        if answer.status == 204:
            assert not {"content-length", "transfer-encoding"} & set(answer.fields)
        assert wire.ask(GET).status == 200


def test_9110_15_2_no_interim_answer_is_sent_unasked(cluster: Cluster) -> None:
    for version in ("1.0", "1.1"):
        with Wire(cluster.port) as wire:
            sent = ask_chat(version=version)
            assert wire.ask(sent[: -len(BODY)], BODY).interim == ()


def test_9112_9_6_a_refused_upload_is_heard_out_and_its_answer_read(cluster: Cluster) -> None:
    """A client that reads nothing before all is sent gets the 413, not a reset."""
    size = LARGEST_BODY + 1
    for sent in (
        request(CHAT, f"Content-Length: {size}") + b"x" * size,
        request(CHAT, "Transfer-Encoding: chunked") + b"%x\r\n" % size + b"x" * size,
    ):
        with Wire(cluster.port) as wire:
            answer = wire.ask(sent)
            assert answer.status == 413
            assert answer.fields["connection"] == "close"
            assert wire.rest() == b""
