"""What is wrong with bytes that are not HTTP is told in plain words, and not in the parser's."""

from __future__ import annotations

import re
from pathlib import Path

import httptools
import pytest
from httptools.parser import parser

from nebula.http.server.heads import unparsed
from nebula.http.server.unparsed import WORDS, words

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
OTHERS = ("RTSP", "ICE", "status", "response line", "EOF", "method", "word", "Preface")
"""What only a parser of responses or of other protocols says, or what has words in `heads`."""


def told(data: bytes) -> str:
    """Return what is said of bytes that the parser refuses."""
    with pytest.raises(httptools.HttpParserError) as refused:
        httptools.HttpRequestParser(object()).feed_data(data)
    return unparsed(str(refused.value), data).text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET + b"A: b\r\n c\r\n\r\n", "goes on in the next line"),
        (GET + b"A: b\r\n\tc\r\n\r\n", "goes on in the next line"),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", "the line after the first one begins with a space"),
        (GET + b"A b: c\r\n\r\n", "the name of a header field has a character"),
        (GET + b"A: b\nC: d\r\n\r\n", "a line does not end with CR and LF"),
        (GET + b"A: b\rC: d\r\n\r\n", "CR is in a line and not at its end"),
        (GET + b"A: b\0\r\n\r\n", "has a control character"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length twice"),
        (POST + b"Content-Length: x\r\n\r\n", "is not a whole number of bytes"),
        (CHUNKED + b"zz\r\n", "the size of a chunk is not a hexadecimal number"),
        (CHUNKED + b"1\r\nabc\r\n", "a chunk is longer than its size says"),
        (b"GET / HTTP/9.9\r\n\r\n", "a version of HTTP that does not exist"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", "the URL in its first line"),
    ],
)
def test_each_fault_is_told_in_plain_words(data: bytes, expected: str) -> None:
    text = told(data)
    assert text.startswith("this is not a valid HTTP request: ")
    assert expected in text


def test_all_that_the_parser_says_of_requests_has_words() -> None:
    binary = Path(parser.__file__).read_bytes()
    says = {
        each.decode()
        for each in re.findall(rb"\0((?:[A-Z][a-z]+|Content-|Transfer-)[ -~]{6,80})(?=\0)", binary)
        if re.match(
            rb"Invalid |Missing |Unexpected |Expected |Duplicate |Empty |Chunk |Data ", each
        )
    }
    unknown = {each for each in says if words(each) == each and not any(o in each for o in OTHERS)}
    assert {each for each in unknown if "%" not in each} == set()
    assert len(says) > 20, "the parser's words are found"


def test_no_words_stand_for_what_the_parser_does_not_say() -> None:
    binary = Path(parser.__file__).read_bytes()
    assert [each for each in WORDS if each.encode() not in binary] == []


def test_what_is_not_known_is_told_as_it_is() -> None:
    assert words("Something new") == "Something new"
