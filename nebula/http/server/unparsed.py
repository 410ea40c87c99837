"""What is wrong with bytes that the parser refuses, in plain words. Pure.

The parser's own words need its source beside them. All that it says of requests has words here:
`tests/unit/test_unparsed.py` takes what it says from the parser itself.
"""

_URL = "the URL in its first line has a character that a URL does not have: write it as %XX"
_VERSION = "its first line does not end with a version, such as HTTP/1.1"
_VALUE = "the value of a header field has a control character"
_LENGTH = "Content-Length is not a whole number of bytes"
_CODING = "Transfer-Encoding does not end with `chunked`"
_BOTH = "it has Content-Length and Transfer-Encoding: only one of them says where a body ends"
_CHUNK = "the size of a chunk is not a hexadecimal number with a line end behind it"
_EXTENSION = "a chunk has an extension that is not valid"
_ENDS = "a line does not end with CR and LF"

WORDS = {
    "Unexpected whitespace after header value": "a header field goes on in the next line, which "
    "begins with a space or a tab: write each field in one line",
    "Unexpected space after start line": "the line after the first one begins with a space: a "
    "header field begins with its name",
    "Invalid header token": "the name of a header field has a character that a name does not have, "
    "or a line has no colon",
    "Invalid header field char": "the name of a header field has a character that a name does not "
    "have",
    "Invalid header value char": _VALUE,
    "Missing expected CR after header value": _ENDS,
    "Missing expected LF after header value": "CR is in a line and not at its end",
    "Expected LF after headers": _ENDS,
    "Expected LF after CR": _ENDS,
    "Expected CRLF after version": _VERSION,
    "Expected CRLF": _ENDS,
    "Expected space after version": _VERSION,
    "Expected HTTP/": _VERSION,
    "Expected dot": _VERSION,
    "Invalid HTTP version": "its first line names a version of HTTP that does not exist",
    "Invalid major version": _VERSION,
    "Invalid minor version": _VERSION,
    "Invalid char in url": _URL,
    "Invalid characters in url": _URL,
    "Unexpected char in url": _URL,
    "Unexpected start char in url": "its first line has no URL: one begins with / or http://",
    "Content-Length can't be present": _BOTH,
    "Transfer-Encoding can't be present": _BOTH,
    "Duplicate Content-Length": "it has Content-Length twice",
    "Invalid character in Content-Length": _LENGTH,
    "Content-Length overflow": _LENGTH,
    "Empty Content-Length": _LENGTH,
    "Empty Transfer-Encoding": _CODING,
    "Invalid `Transfer-Encoding`": _CODING,
    "Request has invalid `Transfer-Encoding`": _CODING,
    "Invalid character in chunk size": _CHUNK,
    "Chunk size overflow": "a chunk is larger than any number here",
    "Missing expected CR after chunk size": _CHUNK,
    "Expected LF after chunk size": _CHUNK,
    "Invalid character in chunk extensions": _EXTENSION,
    "Invalid quoted-pair in chunk": _EXTENSION,
    "Missing expected CR after chunk extension": _EXTENSION,
    "Missing expected CR after chunk data": "a chunk is longer than its size says",
    "Expected LF after chunk data": "a chunk is longer than its size says",
    "Data after `Connection: close`": "more came after a request that said it was the last",
}
"""The beginnings of what the parser says, and what is said in their place."""


def words(reason: str) -> str:
    """Return what is wrong with a request; the parser's own words for what is not known."""
    found = max((each for each in WORDS if reason.startswith(each)), key=len, default="")
    return WORDS[found] if found else reason
