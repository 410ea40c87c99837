"""Where a message ends, and when a connection does: RFC 9112 6 to 9, clause by clause, on the wire.

Each test names its clause; docs/http.md has the table.
"""

import asyncio

import pytest

from tests.integration.cluster import Cluster
from tests.integration.wire import BODY, Answer, Wire, ask_chat, chunked, request

GET = request()
CHAT = "POST /v1/chat/completions HTTP/1.1"


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


def refused(cluster: Cluster, status: int, *sent: bytes) -> None:
    """Assert that a request is refused, once, and the connection ends with it."""
    with Wire(cluster.port) as wire:
        answer = wire.ask(*sent)
        assert answer.status == status, answer
        assert answer.fields["connection"] == "close"
        assert answer.error["message"]
        assert wire.rest() == b""


# RFC 9112 6.1: Transfer-Encoding


HIDDEN = request("DELETE /admin/models/chat HTTP/1.1")


@pytest.mark.parametrize("first", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_9112_6_1_both_framings_at_once_are_refused(cluster: Cluster, first: str) -> None:
    both = ["Content-Length: 5", "Transfer-Encoding: chunked"]
    fields = both if first == both[0] else both[::-1]
    refused(cluster, 400, request(CHAT, *fields) + b"0\r\n\r\n" + HIDDEN)


@pytest.mark.parametrize(
    ("coded", "status"),
    [
        ("gzip", 400),
        ("identity", 400),
        ("xchunked", 400),
        ("chunked, chunked", 400),
        ("chunked, gzip", 400),
        ("chunked;q=1", 400),
        ('"chunked"', 400),
        ("", 400),
        ("\x0bchunked", 400),
        ("gzip, chunked", 501),
        ("identity, chunked", 501),
    ],
)
def test_9112_6_1_a_transfer_coding_that_is_not_chunked(
    cluster: Cluster, coded: str, status: int
) -> None:
    """6.3: 400 where the end can't be known; 6.1: 501 where the coding is not."""
    refused(cluster, status, request(CHAT, f"Transfer-Encoding: {coded}") + b"0\r\n\r\n" + HIDDEN)


@pytest.mark.parametrize("second", ["chunked", "identity", "gzip"])
def test_9112_6_1_two_lines_are_one_list(cluster: Cluster, second: str) -> None:
    fields = ("Transfer-Encoding: chunked", f"Transfer-Encoding: {second}")
    refused(cluster, 400, request(CHAT, *fields) + b"0\r\n\r\n" + HIDDEN)


def test_9112_6_1_http_1_0_has_no_transfer_coding(cluster: Cluster) -> None:
    line = CHAT.replace("1.1", "1.0")
    refused(cluster, 400, request(line, "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN)


def test_9110_10_1_4_names_of_codings_are_the_same_in_all_cases(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        assert said(wire.ask(chunked(BODY).replace(b": chunked", b": ChUnKeD"))) == "a b c d"


# RFC 9112 6.2, 6.3: Content-Length


@pytest.mark.parametrize(
    "value", ["-1", "+5", "5, 5", "5 5", "0x5", "5.0", "five", "", "9" * 30, "5;a", "\x005"]
)
def test_9112_6_3_a_length_that_is_not_valid_is_a_400(cluster: Cluster, value: str) -> None:
    refused(cluster, 400, request(CHAT, f"Content-Length: {value}") + b"12345" + HIDDEN)


@pytest.mark.parametrize("second", [4, 5])
def test_9112_6_3_two_lengths_are_a_400(cluster: Cluster, second: int) -> None:
    fields = ("Content-Length: 5", f"Content-Length: {second}")
    refused(cluster, 400, request(CHAT, *fields) + b"12345" + HIDDEN)


def test_9110_8_6_a_length_far_beyond_all_bounds_is_a_413(cluster: Cluster) -> None:
    refused(cluster, 413, request(CHAT, f"Content-Length: {10**15}") + b"12345")


@pytest.mark.parametrize("size", ["FFFFFFFFFFFFFFFF", "7FFFFFFF;a=b", "10000000"])
def test_9112_7_1_a_chunk_far_beyond_all_bounds_is_a_413(cluster: Cluster, size: str) -> None:
    refused(cluster, 413, request(CHAT, "Transfer-Encoding: chunked") + f"{size}\r\n".encode())


def test_9112_6_3_without_either_there_is_no_body(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        wire.send(request(CHAT) + GET)
        assert wire.answer().error["code"] == "invalid_json"
        assert wire.answer().status == 200


def test_9110_9_3_1_content_in_a_get_is_read_and_passed_over(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        sent = request("GET /v1/models HTTP/1.1", body=HIDDEN)
        for parts in ((sent,), (sent[: -len(HIDDEN)], HIDDEN)):
            assert wire.ask(*parts).status == 200
            assert wire.silent()
        assert wire.ask(GET).status == 200


# RFC 9112 7.1: chunks


def test_9112_7_1_chunks_make_a_body_however_they_are_cut(cluster: Cluster) -> None:
    whole = chunked(*(BODY[at : at + 7] for at in range(0, len(BODY), 7)))
    with Wire(cluster.port) as wire:
        assert said(wire.ask(whole)) == "a b c d"
        assert (
            said(wire.ask(*(whole[at : at + 40] for at in range(0, len(whole), 40)))) == "a b c d"
        )


CODED = request(CHAT, "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "body",
    [
        b"z\r\n",
        b"-1\r\na\r\n0\r\n\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b"1_0\r\na\r\n0\r\n\r\n",
        b"\r\na",
        b" 1\r\na\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"1\na\r\n0\r\n\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1;a\nb\r\n0\r\n\r\n",
        b"1;a\rb\r\na\r\n0\r\n\r\n",
        b"1;a\x00b\r\na\r\n0\r\n\r\n",
    ],
)
def test_9112_7_1_chunks_that_are_not_valid_are_a_400(cluster: Cluster, body: bytes) -> None:
    refused(cluster, 400, CODED + body + HIDDEN)
    refused(cluster, 400, CODED, body + HIDDEN)


@pytest.mark.parametrize("extension", [b";a=b", b';a="b; c"', b";a;b=c", b"  "])
def test_9112_7_1_1_extensions_of_chunks_are_passed_over(
    cluster: Cluster, extension: bytes
) -> None:
    sent = CODED + b"%x%b\r\n%b\r\n0%b\r\n\r\n" % (len(BODY), extension, BODY, extension)
    with Wire(cluster.port) as wire:
        assert said(wire.ask(sent)) == "a b c d"
        assert wire.ask(GET).status == 200


def test_9112_7_1_1_but_not_endless_ones(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(CODED + b"1;", *[b"x" * 60_000] * 10)
        assert answer.status == 431


def test_9112_7_1_2_trailer_fields_are_not_header_fields(cluster: Cluster) -> None:
    """RFC 9110 6.5.1: they MUST NOT be merged into the header section."""
    trailer = (
        b"Idempotency-Key: from-a-trailer\r\nX-Resumable: true\r\nX-Request-Timeout: never\r\n"
    )
    with Wire(cluster.port) as wire:
        for sent in (chunked(BODY, trailer=trailer), chunked(BODY[:5], BODY[5:], trailer=trailer)):
            assert said(wire.ask(sent[:-50], sent[-50:])) == "a b c d"
        assert wire.ask(GET).status == 200


@pytest.mark.parametrize(
    "line", [b"Content-Length: 5\r\n", b"A : b\r\n", b"A: b\r\n c\r\n", b"A\r\n"]
)
def test_9112_7_1_2_a_trailer_section_that_is_not_valid_is_a_400(
    cluster: Cluster, line: bytes
) -> None:
    refused(cluster, 400, chunked(BODY, trailer=line))


# RFC 9112 8: incomplete messages


def test_9112_8_a_request_that_breaks_off_is_not_served(cluster: Cluster) -> None:
    for part in (ask_chat()[:-5], chunked(BODY)[:-5], GET[:-2], GET[:10]):
        with Wire(cluster.port) as wire:
            wire.send(part)
            assert wire.silent()
    with Wire(cluster.port) as wire:
        assert wire.ask(GET).status == 200


# RFC 9112 9: connections


def test_9112_9_3_a_connection_persists(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        for _ in range(5):
            answer = wire.ask(ask_chat())
            assert said(answer) == "a b c d"
            assert "connection" not in answer.fields


@pytest.mark.parametrize("value", ["close", "Close", "foo, close", "keep-alive, close"])
def test_9112_9_6_close_is_answered_and_done(cluster: Cluster, value: str) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(request("GET /v1/models HTTP/1.1", f"Connection: {value}"))
        assert answer.status == 200
        assert answer.fields["connection"] == "close"
        assert wire.rest() == b""


def test_9112_9_6_what_follows_a_close_is_not_served(cluster: Cluster) -> None:
    last = request("GET /v1/models HTTP/1.1", "Connection: close")
    with Wire(cluster.port) as wire:
        wire.send(last + HIDDEN * 3)
        assert wire.answer().status == 200
        assert wire.rest() == b""
    with Wire(cluster.port) as wire:
        assert wire.ask(GET).json()["data"][0]["id"] == "chat"


def test_9112_9_3_2_requests_in_a_row_are_answered_in_their_order(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        wire.send(ask_chat() + GET + chunked(BODY) + request("GET /none HTTP/1.1") + ask_chat())
        assert said(wire.answer()) == "a b c d"
        assert wire.answer().json()["object"] == "list"
        assert said(wire.answer()) == "a b c d"
        assert wire.answer().status == 404
        assert said(wire.answer()) == "a b c d"


def test_9112_9_3_2_a_stream_is_whole_before_the_next_answer(cluster: Cluster) -> None:
    body = BODY[:-1] + b',"stream":true}'
    with Wire(cluster.port) as wire:
        wire.send(ask_chat(body=body) + GET)
        assert wire.answer().body.endswith(b"data: [DONE]\n\n")
        assert wire.answer().json()["object"] == "list"


def test_9112_9_3_http_1_0_ends_with_its_answer(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat(version="1.0"))
        assert said(answer) == "a b c d"
        assert answer.fields["connection"] == "close"
        assert wire.rest() == b""


def test_9112_9_3_unless_it_asks_to_keep_the_connection(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        for _ in range(2):
            answer = wire.ask(ask_chat("Connection: keep-alive", version="1.0"))
            assert said(answer) == "a b c d"
            assert answer.fields["connection"] == "keep-alive"


def test_9112_6_1_http_1_0_gets_no_chunks(cluster: Cluster) -> None:
    """Its stream ends with the connection, whatever it asked for."""
    body = BODY[:-1] + b',"stream":true}'
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat("Connection: keep-alive", version="1.0", body=body))
        assert "transfer-encoding" not in answer.fields
        assert answer.fields["connection"] == "close"
        assert answer.body.startswith(b"data: ")
        assert answer.body.endswith(b"data: [DONE]\n\n")


# RFC 9112 11: smuggling, as it is known


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 0", "Content-Length: 44"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: x"),
        ("Transfer-Encoding : chunked", "Content-Length: 44"),
        ("Transfer-Encoding: chunked", "Content-Length: 44"),
        ("Content-Length: 44", "Transfer-Encoding:\tchunked\x0b"),
        ("X: y\r\n Transfer-Encoding: chunked", "Content-Length: 44"),
        ("X: y\rTransfer-Encoding: chunked", "Content-Length: 44"),
        ("Transfer-Encoding: chunked\x00", "Content-Length: 44"),
        ("Content-Length: 44\x00",),
        ("Content_Length: 9", "Transfer-Encoding\x00: chunked"),
    ],
)
def test_9112_11_2_no_body_becomes_a_request(cluster: Cluster, fields: tuple[str, ...]) -> None:
    refused(cluster, 400, request(CHAT, *fields) + b"0\r\n\r\n" + HIDDEN)
    with Wire(cluster.port) as wire:
        assert wire.ask(GET).json()["data"][0]["id"] == "chat"


def test_9112_9_6_a_client_that_closes_its_side_after_a_request_is_answered(
    cluster: Cluster,
) -> None:
    for sent in (GET, ask_chat(), GET * 3, ask_chat() + GET):
        with Wire(cluster.port) as wire:
            wire.send(sent).end()
            for _ in range(sent.count(b"HTTP/1.1")):
                assert wire.answer().status == 200
            assert wire.rest() == b""
