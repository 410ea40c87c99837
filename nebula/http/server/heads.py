"""Validates a request's head by RFC 9110 and 9112, and derives how to read and answer it. Pure.

The parser (llhttp) splits a message and refuses what breaks its grammar. This module checks what
the parser leaves to its user: hosts, targets, methods, versions, codings.
"""

import re
from functools import lru_cache
from itertools import chain
from typing import Literal

from msgspec import Struct

from nebula.http import root_path, spelling
from nebula.http.server.unparsed import words
from nebula.http.spelling import Misspelled

URL_LIMIT = 8 * 1024
"""Longest target of a request, in bytes. RFC 9110 4.1 asks for 8,000 at least."""

FIELDS_LIMIT = 64 * 1024
"""Bytes of all field lines of one request, at most."""

FIELDS = 100
"""Field lines of one request, at most, including its trailer section."""

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
"""Methods that at least one path of the gateway takes."""

_READ = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"expect")
)
"""Names of the fields that this module reads."""

_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~%-]+)?\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)"
    rb"(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")
_TARGET = re.compile(rb"[!-\"$-~]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +[!-~]+ +HTTP/[0-9]\.[0-9]\r?\n")

_REMEMBERED = 256
"""Number of hosts and targets whose result is remembered: most requests repeat them."""

Fields = list[tuple[bytes, bytes]]


class Objection(Struct, frozen=True):
    """Why a request is refused by its head alone; the connection ends with it."""

    status: int
    text: str
    code: str = "bad_request"


class Head(Struct, frozen=True):
    """The parts of a request's head that matter for serving it.

    `persists`: the client allows another request on the connection. `length`: bytes of the body,
    None if it is chunked. `expects`: the client waits for `100 Continue` before it sends the body.
    `authority`: the target's own host. `content_codings`: the values of all lines as one list (RFC
    9110 5.3).
    """

    path: str
    raw_path: bytes
    query: bytes
    http_1_0: bool
    length: int | None
    expects: bool
    authority: bytes | None = None
    content_codings: bytes = b""


def offers_websocket(fields: Fields) -> bool:
    """Return whether a request's head offers to go on as a WebSocket."""
    return any(
        name == b"upgrade" and b"websocket" in [each.strip() for each in value.lower().split(b",")]
        for name, value in fields
    )


def size(fields: Fields) -> int:
    """Return the bytes that field lines take."""
    return sum(map(len, chain.from_iterable(fields))) + 4 * len(fields)


def read(
    method: bytes, target: bytes, version: str, fields: Fields, root: str = ""
) -> Head | Objection:
    """Return a validated head, or why it is refused; names of fields are in lower case.

    `root`: the prefix under which proxies show the gateway. A path may have it or not.
    """
    if not version.startswith("1."):
        return Objection(505, f"HTTP/{version} is not supported, HTTP/1.1 is", "http_version")
    if method not in METHODS:
        return unknown_method(method)
    hosts, length, coded, expects = 0, 0, b"", False
    host = content = codings = b""
    for name, value in fields:
        if name not in _READ:
            continue
        if name == b"host":
            hosts += 1
            host = value
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            coded = coded + b"," + value if coded else value
        elif name == b"content-encoding":
            codings = content + b"," + value if content else b""
            content = codings or value
        elif name == b"expect":
            for each in value.lower().split(b","):
                if each.strip() == b"100-continue":
                    expects = True
                elif each.strip():
                    return Objection(417, "Expect: only 100-continue is supported", "expectation")
    old = version == "1.0"
    if coded and (wrong := _coding(coded, old=old)):
        return wrong
    if hosts != 1 and (hosts or not old):
        how = "more than one" if hosts else "no"
        return Objection(400, f"a request has one Host field, this one has {how}", "host")
    if hosts and not _is_host(host):
        return Objection(400, "the Host field does not hold a valid host", "host")
    where = _target(method, target, root)
    if isinstance(where, Objection):
        return where
    path, raw_path, query, authority = where
    return Head(
        path,
        raw_path,
        query,
        old,
        None if coded else length,
        expects and not old and (bool(coded) or length > 0),
        authority,
        codings,
    )


def _coding(coded: bytes, *, old: bool) -> Objection | None:
    """Return why a Transfer-Encoding is refused: only chunked is supported (RFC 9112 6.1)."""
    if old:
        return Objection(400, "HTTP/1.0 does not have Transfer-Encoding", "transfer_encoding")
    names = [each.strip().lower() for each in coded.split(b",")]
    if names == [b"chunked"]:
        return None
    if names.count(b"chunked") == 1 and names[-1] == b"chunked":
        return Objection(501, "only the transfer coding chunked is supported", "transfer_encoding")
    return Objection(
        400, "a Transfer-Encoding must end with exactly one chunked", ("transfer_encoding")
    )


@lru_cache(_REMEMBERED)
def _is_host(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


@lru_cache(_REMEMBERED)
def _target(
    method: bytes, target: bytes, root: str
) -> tuple[str, bytes, bytes, bytes | None] | Objection:
    """Return decoded path, raw path, query and authority of a target (RFC 9112 3.2)."""
    authority = None
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return "*", b"*", b"", None
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not _HOST.fullmatch(absolute[1]):
            return Objection(400, "the request's target is not a path or an http URL", "target")
        authority = absolute[1]
        target = absolute[2]
        if not target and method == b"OPTIONS":
            return "*", b"*", b"", authority
        if not target.startswith(b"/"):
            target = b"/" + target
    if not _TARGET.fullmatch(target):
        return Objection(
            400, "the request's target has characters that are not allowed in a URL", ("target")
        )
    raw_path, _, query = target.partition(b"?")
    raw_path = root_path.without(root, raw_path)
    path = spelling.read(raw_path, root)
    if isinstance(path, Misspelled):
        return Objection(404, f"there is nothing at this path: {path.text}", "unknown_url")
    return path, raw_path, query, authority


def unknown_method(method: bytes) -> Objection:
    """Return the error for a method that no path takes (RFC 9110 9.1)."""
    said = method[:32].decode("latin-1")
    return Objection(501, f"the method {said} is not implemented", "method_not_implemented")


def unparsed(reason: str, data: bytes) -> Objection:
    """Return the error for bytes that the parser has refused for `reason`."""
    if reason.startswith(("Invalid method", "Expected space after method")):
        for line in _REQUEST_LINE.finditer(data):
            if line[1] not in METHODS:
                return unknown_method(line[1])
        return Objection(400, "this is not an HTTP request")
    if "PRI/Upgrade" in reason:
        return Objection(505, "HTTP/2 is not supported, HTTP/1.1 is", "http_version")
    return Objection(400, f"this is not a valid HTTP request: {words(reason)}")


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """Return a request's head again, without the offer to switch protocols.

    RFC 9110 7.8: a server may ignore the offer. The parser can't: it treats what follows as the
    other protocol. So it gets the same request again, without the offer.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    lines += [b"%b: %b\r\n" % field for field in fields if field[0] != b"upgrade"]
    return b"".join(lines) + b"\r\n"


@lru_cache(_REMEMBERED)
def framing(method: str, status: int) -> Literal["none", "head", "content"]:
    """Return how much of an answer's content is sent (RFC 9110 6.4.1 and 9112 6.3).

    "none": no content, and no field about its length; "head": its fields without the content.
    """
    if status < 200 or status == 204:
        return "none"
    return "head" if method == "HEAD" or status == 304 else "content"
