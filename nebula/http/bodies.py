"""Request bodies, read over ASGI up to a limit and within the gateway's memory for requests."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from litestar.types import Receive

from nebula.actors.gateway.budget import Hold
from nebula.http import codings
from nebula.http.errors import ApiError, overdue, unavailable

PART_PATIENCE = 30.0
"""Seconds within which the next part of a body must arrive."""

PROMISED = "nebula.promised"
"""Key of an ASGI message for the least number of bytes that the body will have, if known."""

_AT_ONCE = 16
"""Slices that are decoded before other tasks run: about 1 MiB."""


class ClientLeft(Exception):
    """The client disconnected before its request was complete."""


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], limit: int, hold: Hold
) -> bytes:
    """Return a body of at most `limit` bytes, if `hold` has room for it.

    A compressed body is decompressed; limit and hold apply to the result. If the client announces a
    length that is too large, nothing of the body is read. Raise ApiError 413, 415 or 503, 400 for a
    body that can't be decoded, 408 for a body that stops arriving; raise ClientLeft.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit():
        size = int(length)
        if size > limit:
            raise _too_large(limit)
        if not hold.fits(size):
            raise _no_room()
    if b"content-encoding" in headers:
        coded = _codings(headers[b"content-encoding"])
        if coded:
            return await _decoded(receive, coded, limit, hold)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = message.get("body", b"")
        _take(len(body), len(body), limit, hold)
        return bytes(body)
    parts = bytearray()
    async for part in _parts(message, receive, limit):
        parts += part
        _take(len(part), len(parts), limit, hold)
    return bytes(parts)


async def body_parts(
    receive: Receive, headers: Mapping[bytes, bytes], limit: int
) -> AsyncIterator[bytes]:
    """Yield a body of at most `limit` bytes, part by part as it arrives; nothing of it is kept.

    Raise ApiError 413, 408, 415 for a compressed body; raise ClientLeft.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    if _codings(headers.get(b"content-encoding", b"identity")):
        text = "Content-Encoding: this path takes bodies that are not compressed"
        raise ApiError(415, text, code="unsupported_encoding", accept_encoding="identity")
    size = 0
    async for part in _parts(await receive(), receive, limit):
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        yield part


async def _decoded(receive: Receive, coded: list[str], limit: int, hold: Hold) -> bytes:
    decoder, body, slices = codings.Decoder(coded), bytearray(), 0
    try:
        async for part in _parts(await receive(), receive, limit):
            for given in decoder.take(part):
                body += given
                _take(len(given), len(body), limit, hold)
                slices += 1
                if not slices % _AT_ONCE:
                    await asyncio.sleep(0)
        decoder.end()
    except codings.BadCoding as error:
        how = ", ".join(coded)
        text = f"the body can't be decoded (Content-Encoding: {how}): {error}"
        raise ApiError(400, text, code="invalid_encoding") from None
    return bytes(body)


async def _parts(
    message: Mapping[str, object], receive: Receive, limit: int
) -> AsyncIterator[bytes]:
    """Yield a body's parts, the first of which is here. Raise ApiError 408, 413, ClientLeft."""
    while message["type"] == "http.request":
        promised = message.get(PROMISED, 0)
        assert isinstance(promised, int)
        if promised > limit:
            raise _too_large(limit)
        part = message.get("body", b"")
        assert isinstance(part, bytes | bytearray)
        yield bytes(part)
        if not message.get("more_body"):
            return
        try:
            async with asyncio.timeout(PART_PATIENCE):
                message = await receive()
        except TimeoutError:
            text = f"nothing more of the body arrived for {PART_PATIENCE:.0f} s"
            raise overdue(text) from None
    raise ClientLeft


def _codings(field: bytes) -> list[str]:
    try:
        return codings.names(field)
    except codings.UnknownCoding as error:
        text = f"Content-Encoding: {error}; a body may have {codings.ACCEPTED}, or none"
        raise ApiError(
            415, text, code="unsupported_encoding", accept_encoding=codings.ACCEPTED
        ) from None


def _take(size: int, whole: int, limit: int, hold: Hold) -> None:
    if whole > limit:
        raise _too_large(limit)
    if not hold.grow(size):
        raise _no_room()


def _no_room() -> ApiError:
    return unavailable("the gateway has as many bytes of requests in hand as it may")


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
