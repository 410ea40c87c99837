"""Requests in bytes: however packets are cut, the same ones come of it, and no other ones."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines
from nebula.http.server.heads import FIELDS_LIMIT, URL_LIMIT, Fields, Head
from nebula.http.server.parsing import Parsing

HIDDEN = b"DELETE /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
OFFERS = (
    b"",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"upgrade: foo\r\nCONNECTION: a, upgrade\r\n",
)


class Told:
    """A reader that writes down what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, bool]] = []
        self.refused = 0
        self.promised = 0
        self.fields: list[Fields] = []

    def begin(self, method: bytes, head: Head, fields: Fields, *, persists: bool) -> None:
        self.requests.append((f"{method.decode()} {head.path}", b"", False))
        self.fields.append(fields)

    def switch(self, head: Head, fields: Fields) -> bool:
        return False

    def raw(self, data: bytes) -> None:
        raise AssertionError(data)

    def body(self, part: bytes) -> None:
        said, body, _ = self.requests[-1]
        self.requests[-1] = (said, body + part, False)

    def promise(self, size: int) -> None:
        self.promised = size

    def end(self) -> None:
        said, body, _ = self.requests[-1]
        self.requests[-1] = (said, body, True)

    def whole(self, head: Head, fields: Fields, body: bytes) -> bool:
        return False  # all is told by the other calls

    def refuse(self, error: ApiError) -> None:
        self.refused = error.status
        self.parsing.stop()

    def over(self) -> None:
        self.refused = -1
        self.parsing.stop()

    parsing: Parsing


def told(sent: bytes, cuts: list[int] | None = None) -> Told:
    reader = Told()
    reader.parsing = Parsing(reader)
    places = sorted({0, len(sent), *(cut % (len(sent) + 1) for cut in cuts or ())})
    for start, end in pairwise(places):
        if reader.refused:
            break
        reader.parsing.feed(sent[start:end])
    return reader


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[str, bytes, bool]]:
    """Draw a valid request, and what it is."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
    path = draw(st.sampled_from(["/", "/a", "/v1/chat/completions?x=y"]))
    body = draw(st.binary(max_size=40) | st.just(HIDDEN))
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + draw(
        st.sampled_from(OFFERS)
    )
    if draw(st.booleans()):
        step = draw(st.integers(1, 50))
        chunks = [body[at : at + step] for at in range(0, len(body), step)]
        coded = b"".join(b"%x;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        trailer = draw(st.sampled_from([b"", b"T: v\r\n", OFFERS[1]]))
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n" + trailer + b"\r\n"
    else:
        sent = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return sent, (f"{method} {path.partition('?')[0]}", body, True)


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(requests(), max_size=6), cuts)
def test_all_requests_come_of_it_whole_and_in_order(
    drawn: list[tuple[bytes, tuple[str, bytes, bool]]], places: list[int]
) -> None:
    reader = told(b"".join(sent for sent, _ in drawn), places)
    assert not reader.refused
    assert reader.requests == [request for _, request in drawn]
    assert all(name not in (b"upgrade", b"t") for fields in reader.fields for name, _ in fields)


@given(
    st.lists(requests(), min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.binary(max_size=3),
    cuts,
)
@example([(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ("GET /", b"", True))], 4, b"\r\n", [5])
def test_where_bytes_are_wrong_it_makes_no_difference_how_they_are_cut(
    drawn: list[tuple[bytes, tuple[str, bytes, bool]]], at: int, wrong: bytes, places: list[int]
) -> None:
    sent = b"".join(sent for sent, _ in drawn)
    at %= len(sent)
    sent = sent[:at] + wrong + sent[at + len(wrong) :]
    whole, cut = told(sent), told(sent, places)
    assert bool(cut.refused) == bool(whole.refused)
    ended = [request for request in whole.requests if request[2]]
    assert [request for request in cut.requests if request[2]] == ended


@given(st.binary(max_size=300), cuts)
def test_whatever_comes_is_taken_or_refused(sent: bytes, places: list[int]) -> None:
    told(sent, places)
    told(b"GET / HTTP/1.1\r\n" + sent, places)


CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = b"FFFFFFFFFFFFFFFF\r\n"


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=6),
    st.sampled_from([b"", b";a=b", b"  "]),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]),
    st.sampled_from([b"", *OFFERS]),
    cuts,
)
@example([b"a", b"b"], b"", b"", OFFERS[1], [98])  # in the empty line behind a head that offers
def test_a_body_is_known_to_be_as_long_as_its_chunks_say_before_they_come(
    parts: list[bytes], after: bytes, before: bytes, offer: bytes, places: list[int]
) -> None:
    head = before + CHUNKED[:-2] + offer + b"\r\n"
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(part), after, part) for part in parts)
    sent = head + coded + b"00007" + after + b"\r\n"
    reader = told(sent, places)
    assert not reader.refused
    assert reader.promised == sum(map(len, parts)) + 7


@given(cuts)
@example([])
def test_a_chunk_that_can_never_come_is_told_when_its_size_is_there(places: list[int]) -> None:
    assert told(CHUNKED + LARGE, places).promised == 2**64 - 1
    assert told(CHUNKED + LARGE[:-1], places).promised == 0


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("last", range(1, 8))
def test_a_size_that_comes_with_the_end_of_a_head_counts_however_small_the_parts_before(
    last: int,
) -> None:
    sent = HEAD + b"400\r\nab"
    places = [*range(len(HEAD) - last), len(HEAD) - last]
    assert told(sent, places).promised == 0x400


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
)
def test_after_a_request_that_ends_its_connection_nothing_is_read(head: bytes) -> None:
    for cut in (0, len(head), len(head) + 5):
        reader = told(head + HIDDEN, [cut])
        assert reader.requests == [("GET /", b"", True)]
        assert reader.refused == -1


def test_a_long_url_and_long_fields_may_come_together_and_in_parts() -> None:
    url, fields = b"/" + b"x" * (URL_LIMIT - 1), b"A: " + b"y" * (FIELDS_LIMIT - 100) + b"\r\n"
    sent = b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n"
    reader = told(sent, list(range(0, len(sent), 1000)))
    assert not reader.refused
    assert len(reader.requests) == 1


def test_fields_after_a_body_have_a_bound_also_where_each_comes_by_itself() -> None:
    reader = told(HEAD + b"1\r\nx\r\n")
    for _ in range(10):
        reader.parsing.feed(b"1\r\nx\r\n")
    reader.parsing.feed(b"0\r\n")
    for _ in range(FIELDS_LIMIT // 100 + 2):
        if not reader.refused:
            reader.parsing.feed(b"t" * 100)
    assert reader.refused == 431


HEADS = (
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nA: b\r\n\r\n",
    b"POST /a?b HTTP/1.1\r\nA: \r\ncontent-length:\t%d\r\nHost: x\r\n\r\n",
    b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nCONTENT-LENGTH: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    b"POST /a HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n",
    b"POST http://y/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" + OFFERS[1] + b"\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: %d\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nHost: x\r\nA: %d\r\n\r\n",
)


@st.composite
def repeated_requests(draw: st.DrawFn) -> list[bytes]:
    """Draw reads of a connection: requests with the same head, some of them changed somewhere."""
    heads = draw(st.lists(st.sampled_from(HEADS), min_size=1, max_size=2))
    reads = []
    for _ in range(draw(st.integers(2, 6))):
        body = draw(st.sampled_from([b"abc", b"de", b"", b"\r\n\r\n", HIDDEN]))
        sent = draw(st.sampled_from(heads)) % len(body) + body
        if draw(st.integers(0, 2)) == 0:
            at = draw(st.integers(0, len(sent)))
            other = draw(
                st.sampled_from([b"", b"0", b"\n", b" ", b"\r\n", b"Content-Length: 1\r\n"])
            )
            sent = sent[:at] + other + sent[at + draw(st.integers(0, 3)) :]
        reads.append(sent)
    return reads


def told_by_reads(reads: list[bytes], *, remembers: bool) -> tuple[object, ...]:
    reader = Told()
    reader.parsing = Parsing(reader)
    for read in reads:
        if not reader.refused:
            if not remembers:
                reader.parsing._again = None
            reader.parsing.feed(read)
    arriving = reader.parsing.arriving
    return reader.requests, reader.fields, reader.refused, arriving, reader.parsing.last


@given(repeated_requests())
@example([HEADS[0] % 3 + b"abc", HEADS[0] % 2 + b"de", HEADS[0] % 2 + b"fg"])
@example([HEADS[0] % 3 + b"abc", HEADS[8] % 3 + b"abc", HEADS[8] % 2 + b"de"])
def test_a_head_that_came_before_is_read_as_it_is_read_anew(reads: list[bytes]) -> None:
    assert told_by_reads(reads, remembers=True) == told_by_reads(reads, remembers=False)


def test_requests_with_the_same_fields_share_what_is_read_of_them() -> None:
    reader = told(HEADS[0] % 3 + b"abc")
    for length in (2, 2, 4):
        reader.parsing.feed(HEADS[0] % length + b"x" * length)
    first, *others = reader.fields[1:]
    assert isinstance(first, FieldLines)
    assert all(isinstance(each, FieldLines) and each.facts is first.facts for each in others)
    assert [dict(each)[b"content-length"] for each in reader.fields] == [b"3", b"2", b"2", b"4"]
