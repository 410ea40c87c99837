"""Requests and answers on NATS: what is written into headers is what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.events import envelope, piece_envelope
from nebula.events.failures import Failure
from nebula.events.inference import Piece, ReplicaCandidate, Request, Routed
from nebula.events.record import parse_headers

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
words = st.one_of(st.just(""), tokens)
types = st.sampled_from(
    ["application/json", "text/event-stream", "multipart/form-data; boundary=x"]
)
seconds = st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000)
requests = st.builds(
    Request,
    id=tokens,
    gateway=tokens,
    model=tokens,
    path=st.sampled_from(["/v1/chat/completions", "/v1/embeddings", "/"]),
    body=st.binary(max_size=50),
    adapter=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    content_type=types,
    attempt=st.integers(1, 2**31),
    avoid=words,
    user=words,
    priority=st.integers(-(2**31), 2**31),
    patience=seconds,
    timeout=st.none() | seconds,
    prefix=st.lists(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), max_size=9).map(tuple),
    keep=st.booleans(),
    continues=st.sampled_from(["", "again", "rest"]),
    tokens=st.sampled_from(["", "tracked", "shown"]),
    slack=st.booleans(),
    bundled=st.booleans(),
)
heads = st.builds(
    Piece,
    chunk=st.integers(-1, 2**40),
    body=st.binary(max_size=50),
    status=st.integers(100, 599),
    content_type=types,
    replica=words,
    end=st.booleans(),
    failure=st.sampled_from(["", Failure.REFUSED, Failure.ENGINE_FAILED]),
    attempt=st.integers(1, 2**31),
    retry_after=st.none() | st.integers(0, 60),
    continues=st.sampled_from(["", "again", "rest"]),
)
pieces = st.one_of(
    heads,
    st.builds(
        Piece,
        chunk=st.integers(-1, 2**40),
        body=st.binary(max_size=50),
        end=st.booleans(),
        failure=st.sampled_from(["", Failure.ENGINE_STOPPED, Failure.ENGINE_TIMED_OUT]),
        attempt=st.integers(1, 2**31),
        queued=words,
    ),
)
NAMES = [
    value
    for name, value in vars(envelope).items()
    if name.isupper() and isinstance(value, str) and value[0].isupper()
]
headers = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        st.text(max_size=10),
        st.sampled_from(["/", "1", "-1", "ff", "c3a9", "zz", "1e3", "nan", "inf", "9" * 5000]),
    ),
)
OF_A_GATEWAY = {envelope.REQUEST: "r", envelope.GATEWAY: "g", envelope.PATH: "/"}


@given(requests)
def test_a_request_comes_through_its_headers(request: Request) -> None:
    written = envelope.request_headers(request)
    assert envelope.read_request(request.model, written, request.body) == request


@given(requests)
def test_a_request_comes_through_its_header_block(request: Request) -> None:
    written = envelope.block(envelope.request_headers(request))
    assert envelope.read_request(request.model, parse_headers(written), request.body) == request


usual = st.builds(
    Request, tokens, tokens, st.just("chat"), st.just("/v1/completions"), st.binary(max_size=20)
)


@given(st.one_of(requests, usual))
def test_what_is_written_once_for_many_requests_is_read_as_what_is_written_for_each(
    request: Request,
) -> None:
    written = envelope.request_block(request)
    assert parse_headers(written) == envelope.request_headers(request)
    assert envelope.receive_request(request.model, written, request.body) == request


@given(st.one_of(headers.map(envelope.block), st.binary(max_size=200)), st.binary(max_size=9))
def test_any_header_block_is_read_as_its_headers_are(block: bytes, body: bytes) -> None:
    read = envelope.read_request("chat", parse_headers(block), body)
    assert envelope.receive_request("chat", block, body) == read


def test_a_header_behind_a_router_s_choice_is_read_as_any_other() -> None:
    request = Request("r", "g", "chat", "/v1/completions", b"{}")
    sent = envelope.routed_block(envelope.request_block(request), 1, Routed("router", 1, ()))
    later = sent[:-2] + b"Nebula-Priority: 7\r\n\r\n"
    assert envelope.receive_request("chat", sent, b"{}") == request
    assert envelope.receive_request("chat", later, b"{}") == replace(request, priority=7)


@pytest.mark.parametrize("size", ["many", "-1", "1e3"])
def test_a_size_that_is_not_a_number_is_read_as_any_other_header(size: str) -> None:
    written = {**OF_A_GATEWAY, envelope.PATIENCE: "1", envelope.SIZE: size}
    expected = envelope.read_request("chat", written, b"")
    assert envelope.receive_request("chat", envelope.block(written), b"") == expected


@given(requests)
def test_the_headers_of_a_request_are_plain_ascii_on_one_line(request: Request) -> None:
    for value in envelope.request_headers(request).values():
        assert value.isascii()
        assert value.isprintable()


def test_the_usual_request_says_only_what_it_must() -> None:
    assert envelope.request_headers(Request("r", "g", "chat", "/v1/completions", b"")) == {
        "Nebula-Request": "r",
        "Nebula-Gateway": "g",
        "Nebula-Path": "/v1/completions",
        "Content-Type": "application/json",
        "Nebula-Patience": "30.000",
    }


@given(pieces)
def test_a_piece_of_an_answer_comes_through_its_headers(piece: Piece) -> None:
    assert piece_envelope.read(piece_envelope.headers_of(piece), piece.body) == piece


@given(pieces)
def test_a_piece_of_an_answer_comes_through_its_header_block(piece: Piece) -> None:
    written = envelope.block(piece_envelope.headers_of(piece))
    assert piece_envelope.read_answer(written, piece.body) == piece
    assert piece_envelope.block_of(replace(piece, body=b"")) == written
    assert piece_envelope.read(parse_headers(written), piece.body) == piece


@given(st.integers(0, 2**40))
def test_the_usual_piece_has_the_block_that_any_other_would_have(chunk: int) -> None:
    block = piece_envelope.plain_block(chunk)
    assert block == envelope.block(piece_envelope.headers_of(Piece(chunk)))
    assert piece_envelope.read_plain(block) == chunk


@given(pieces)
def test_only_the_usual_piece_is_read_without_its_headers(piece: Piece) -> None:
    chunk = piece_envelope.read_plain(envelope.block(piece_envelope.headers_of(piece)))
    assert chunk is None or Piece(chunk, piece.body) == piece


@given(st.binary(max_size=60))
def test_whatever_the_block_is_reading_a_usual_piece_never_raises(block: bytes) -> None:
    chunk = piece_envelope.read_plain(block)
    assert chunk is None or int(parse_headers(block)[envelope.CHUNK]) == chunk


@given(headers)
def test_whatever_the_headers_say_reading_them_never_raises(written: dict[str, str]) -> None:
    request = envelope.read_request("chat", written, b"")
    assert request is None or (request.id and request.gateway and request.path.startswith("/"))
    piece_envelope.read(written, b"")
    envelope.read_routed(written)


@pytest.mark.parametrize(
    "written",
    [
        None,
        {},
        {envelope.REQUEST: "r"},
        {envelope.GATEWAY: "g"},
        {envelope.REQUEST: "r", envelope.GATEWAY: "g"},
        {**OF_A_GATEWAY, envelope.PATH: "v1/models"},
        {**OF_A_GATEWAY, envelope.REQUEST: "r.s"},
        {**OF_A_GATEWAY, envelope.GATEWAY: "*"},
        {**OF_A_GATEWAY, envelope.ADAPTER: "é"},
        {**OF_A_GATEWAY, envelope.ADAPTER: "f"},
        {**OF_A_GATEWAY, envelope.ADAPTER: "ff"},
        {**OF_A_GATEWAY, envelope.ATTEMPT: "second"},
        {**OF_A_GATEWAY, envelope.PRIORITY: "high"},
        {**OF_A_GATEWAY, envelope.PATIENCE: "long"},
        {**OF_A_GATEWAY, envelope.PATIENCE: "-1"},
        {**OF_A_GATEWAY, envelope.PATIENCE: "nan"},
        {**OF_A_GATEWAY, envelope.TIMEOUT: "inf"},
    ],
)
def test_what_no_gateway_has_sent_is_not_a_request(written: dict[str, str] | None) -> None:
    assert envelope.read_request("chat", written, b"{}") is None


@pytest.mark.parametrize(
    "written",
    [
        None,
        {},
        {envelope.STATUS: "200"},
        {envelope.CHUNK: "first"},
        {envelope.CHUNK: "0", envelope.STATUS: "OK"},
        {envelope.CHUNK: "0", envelope.ATTEMPT: "second"},
        {envelope.CHUNK: "0", envelope.RETRY_AFTER: "soon"},
    ],
)
def test_what_no_engine_has_sent_is_not_a_piece(written: dict[str, str] | None) -> None:
    assert piece_envelope.read(written, b"") is None


@given(
    st.one_of(requests, usual),
    st.integers(0, 2**31),
    st.builds(
        Routed,
        tokens,
        st.integers(0, 2**40),
        st.lists(
            st.builds(
                ReplicaCandidate,
                tokens,
                st.integers(0, 9),
                st.booleans(),
                st.integers(0, 9),
                st.sampled_from([0.0, 0.5, 1.0]),
                st.integers(0, 2**16),
            ),
            max_size=4,
        ).map(tuple),
        seconds,
    ),
)
def test_what_a_router_adds_to_a_request_is_read_and_changes_nothing_else(
    request: Request, plan: int, routed: Routed
) -> None:
    written = envelope.routed_block(envelope.request_block(request), plan, routed)
    assert envelope.receive_request(request.model, written, request.body) == request
    assert envelope.read_plan(written) == plan
    found = parse_headers(written)
    assert envelope.read_routed(found) == routed
    assert found[envelope.ROUTED].isascii()
    assert found[envelope.ROUTED].isprintable()


def test_a_routers_choice_older_than_queues_is_read() -> None:
    old = '{"router":"a","seq":7,"candidates":[["chat-0",1]]}'
    assert envelope.read_routed({envelope.ROUTED: old}) == Routed(
        "a", 7, (ReplicaCandidate("chat-0", 1),)
    )


@pytest.mark.parametrize("written", [{}, {envelope.ROUTED: "{"}, {envelope.ROUTED: '{"seq":1}'}])
def test_what_no_router_has_written_is_not_a_choice(written: dict[str, str]) -> None:
    assert envelope.read_routed(written) is None
