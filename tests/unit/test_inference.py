"""Requests and answers on NATS: what is written into headers is what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import inference
from nebula.events.inference import Piece, Request

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
types = st.sampled_from(
    ["application/json", "text/event-stream", "multipart/form-data; boundary=x"]
)
requests = st.builds(
    Request,
    id=tokens,
    gateway=tokens,
    model=tokens,
    path=st.sampled_from(["/v1/chat/completions", "/v1/embeddings", "/"]),
    body=st.binary(max_size=50),
    adapter=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    content_type=types,
)
heads = st.builds(
    Piece,
    chunk=st.integers(-1, 2**40),
    body=st.binary(max_size=50),
    status=st.integers(100, 599),
    content_type=types,
    replica=st.one_of(st.just(""), tokens),
    end=st.booleans(),
    failure=st.sampled_from(["", inference.NO_REPLICA, inference.ENGINE_FAILED]),
)
pieces = st.one_of(
    heads,
    st.builds(
        Piece,
        chunk=st.integers(-1, 2**40),
        body=st.binary(max_size=50),
        end=st.booleans(),
        failure=st.sampled_from(["", inference.ENGINE_STOPPED]),
    ),
)
headers = st.dictionaries(
    st.sampled_from(
        [
            inference.PATH,
            inference.REQUEST,
            inference.GATEWAY,
            inference.ADAPTER,
            inference.CONTENT_TYPE,
            inference.CHUNK,
            inference.STATUS,
            inference.REPLICA,
            inference.END,
            inference.FAILURE,
        ]
    ),
    st.one_of(st.text(max_size=10), st.sampled_from(["/", "1", "-1", "ff", "c3a9", "zz", "1e3"])),
)


@given(requests)
def test_a_request_comes_through_its_headers(request: Request) -> None:
    written = inference.request_headers(request)
    assert inference.read_request(request.model, written, request.body) == request


@given(requests)
def test_the_headers_of_a_request_are_plain_ascii_on_one_line(request: Request) -> None:
    for value in inference.request_headers(request).values():
        assert value.isascii()
        assert value.isprintable()


@given(pieces)
def test_a_piece_of_an_answer_comes_through_its_headers(piece: Piece) -> None:
    assert inference.read_piece(inference.piece_headers(piece), piece.body) == piece


@given(headers)
def test_whatever_the_headers_say_reading_them_never_raises(written: dict[str, str]) -> None:
    request = inference.read_request("chat", written, b"")
    assert request is None or (request.id and request.gateway and request.path.startswith("/"))
    inference.read_piece(written, b"")


@pytest.mark.parametrize(
    "written",
    [
        None,
        {},
        {inference.REQUEST: "r"},
        {inference.GATEWAY: "g"},
        {inference.REQUEST: "r", inference.GATEWAY: "g"},
        {inference.REQUEST: "r", inference.GATEWAY: "g", inference.PATH: "v1/models"},
        {
            inference.REQUEST: "r",
            inference.GATEWAY: "g",
            inference.PATH: "/",
            inference.ADAPTER: "é",
        },
        {
            inference.REQUEST: "r",
            inference.GATEWAY: "g",
            inference.PATH: "/",
            inference.ADAPTER: "f",
        },
        {
            inference.REQUEST: "r",
            inference.GATEWAY: "g",
            inference.PATH: "/",
            inference.ADAPTER: "ff",
        },
    ],
)
def test_what_no_gateway_has_sent_is_no_request(written: dict[str, str] | None) -> None:
    assert inference.read_request("chat", written, b"{}") is None


@pytest.mark.parametrize(
    "written",
    [
        None,
        {},
        {inference.STATUS: "200"},
        {inference.CHUNK: "first"},
        {inference.CHUNK: "0", inference.STATUS: "OK"},
    ],
)
def test_what_no_engine_has_sent_is_no_piece(written: dict[str, str] | None) -> None:
    assert inference.read_piece(written, b"") is None
