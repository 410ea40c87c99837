"""What a head must be: hosts, targets, versions, codings of a transfer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.http.server import heads
from nebula.http.server.heads import (
    Fields,
    Head,
    Objection,
    framing,
    read,
    unparsed,
    without_upgrade,
)

HOST = (b"host", b"x")


def said(
    target: bytes = b"/", *fields: tuple[bytes, bytes], method: bytes = b"GET", version: str = "1.1"
) -> Head | int:
    found = read(method, target, version, list(fields) or [HOST])
    return found.status if isinstance(found, Objection) else found


@pytest.mark.parametrize(
    "host",
    ["x", "x:80", "x:", "127.0.0.1:8000", "[::1]", "[::1]:80", "a_b.c-d", "a%20b", "[fe80::1%25e]"],
)
def test_a_valid_host_is_taken(host: str) -> None:
    assert isinstance(said(b"/", (b"host", host.encode())), Head)


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "::1", "[::1", "x:y", "x:123456", "ä", "a?b", "a%2"]
)
def test_another_is_not(host: str) -> None:
    assert said(b"/", (b"host", host.encode())) == 400


def test_one_host_is_needed_but_of_http_1_0() -> None:
    other = (b"accept", b"*/*")
    assert said(b"/", other) == 400
    assert isinstance(said(b"/", other, version="1.0"), Head)
    for version in ("1.0", "1.1"):
        assert said(b"/", HOST, HOST, version=version) == 400


@pytest.mark.parametrize("target", [b"//a", b"http://h//a", b"/a%2Fb", b"//a?b=c"])
def test_a_path_that_would_have_to_be_mended_is_not_there(target: bytes) -> None:
    assert said(target) == 404


@pytest.mark.parametrize(
    ("target", "path", "query", "authority"),
    [
        (b"/a?b=c", "/a", b"b=c", None),
        (b"/a%20b%C3%A4?%20", "/a bä", b"%20", None),
        (b"/?", "/", b"", None),
        (b"http://h:80/a?b", "/a", b"b", b"h:80"),
        (b"HTTPS://h", "/", b"", b"h"),
        (b"http://h?b", "/", b"b", b"h"),
        (b"http://[::1]/", "/", b"", b"[::1]"),
    ],
)
def test_a_target_is_a_path_or_a_url(
    target: bytes, path: str, query: bytes, authority: bytes | None
) -> None:
    found = said(target)
    assert isinstance(found, Head)
    assert (found.path, found.query, found.authority) == (path, query, authority)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"h:80",
        b"http://",
        b"http:///a",
        b"ftp://h/",
        b"/a#b",
        b"/\xc3",
        b"",
        b"http://u@h/",
    ],
)
def test_nothing_else_is(target: bytes) -> None:
    assert said(target) == 400


@pytest.mark.parametrize("target", [b"*", b"http://h"])
def test_options_may_be_of_the_server_as_a_whole(target: bytes) -> None:
    found = said(target, method=b"OPTIONS")
    assert isinstance(found, Head)
    assert found.path == "*"


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT", b"PROPFIND", b"QUERY", b"get"])
def test_methods_that_nothing_takes_are_not_implemented(method: bytes) -> None:
    assert said(method=method) == 501


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0", "9.9"])
def test_other_major_versions_are_not_spoken(version: str) -> None:
    assert said(version=version) == 505


def test_a_higher_minor_version_is() -> None:
    assert isinstance(said(version="1.2"), Head)


@pytest.mark.parametrize(
    ("coded", "status"),
    [
        ((b"chunked",), None),
        ((b"Chunked",), None),
        ((b"gzip, chunked",), 501),
        ((b"identity", b"chunked"), 501),
        ((b"chunked, chunked",), 400),
        ((b"chunked", b"gzip"), 400),
        ((b"gzip",), 400),
        ((b"x" * 9,), 400),
    ],
)
def test_of_transfer_codings_only_chunked_is_taken(
    coded: tuple[bytes, ...], status: int | None
) -> None:
    fields = [(b"transfer-encoding", each) for each in coded]
    found = said(b"/", HOST, *fields)
    assert found == status if status else isinstance(found, Head)
    assert said(b"/", HOST, *fields, version="1.0") == 400


@pytest.mark.parametrize(
    ("value", "status"), [(b"100-continue", None), (b"100-Continue", None), (b"200-ok", 417)]
)
def test_only_100_continue_can_be_expected(value: bytes, status: int | None) -> None:
    found = said(b"/", HOST, (b"content-length", b"3"), (b"expect", value))
    if status:
        assert found == status
    else:
        assert isinstance(found, Head)
        assert found.expects
        old = said(b"/", HOST, (b"content-length", b"3"), (b"expect", value), version="1.0")
        assert isinstance(old, Head)
        assert not old.expects


def test_codings_of_several_lines_are_one_list() -> None:
    fields = [(b"content-encoding", each) for each in (b"gzip", b"br, zstd", b"gzip")]
    many, one = said(b"/", HOST, *fields), said(b"/", HOST, fields[0])
    assert isinstance(many, Head)
    assert isinstance(one, Head)
    assert (many.content_codings, one.content_codings) == (b"gzip,br, zstd,gzip", b"")


def test_a_body_that_has_none_is_not_waited_for() -> None:
    found = said(b"/", HOST, (b"expect", b"100-continue"))
    assert isinstance(found, Head)
    assert not found.expects


@given(st.binary(), st.lists(st.tuples(st.sampled_from([b"host", b"expect", b"a"]), st.binary())))
def test_whatever_a_head_says_it_is_read_or_refused(target: bytes, fields: Fields) -> None:
    found = read(b"GET", target, "1.1", fields)
    if isinstance(found, Objection):
        assert 400 <= found.status < 600
        assert found.text.isprintable()
    else:
        assert found.path.startswith("/")


def test_an_offer_is_struck_out_and_nothing_else() -> None:
    fields = [HOST, (b"upgrade", b"h2c"), (b"content-length", b"3"), (b"upgrade", b"x")]
    anew = without_upgrade(b"POST", b"/a", "1.1", fields)
    assert anew == b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("reason", "data", "status"),
    [
        ("Invalid method encountered", b"FOO / HTTP/1.1\r\n", 501),
        ("Invalid method encountered", b"\x16\x03\x01", 400),
        ("Invalid method encountered", b"SSH-2.0-x\r\n", 400),
        ("Pause on PRI/Upgrade", b"PRI * HTTP/2.0\r\n", 505),
        ("Invalid header token", b"GET / HTTP/1.1\r\n", 400),
    ],
)
def test_what_can_not_be_parsed_is_told_what_is_wrong(
    reason: str, data: bytes, status: int
) -> None:
    assert unparsed(reason, data).status == status


def test_what_of_an_answer_is_sent() -> None:
    assert framing("GET", 200) == "content"
    assert framing("HEAD", 200) == framing("GET", 304) == "head"
    assert framing("GET", 204) == framing("HEAD", 204) == framing("GET", 101) == "none"


def test_urls_may_be_as_long_as_the_standard_asks_for() -> None:
    assert heads.URL_LIMIT >= 8000
