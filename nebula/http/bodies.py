"""Request bodies: read up to a limit, and while there is room for them, over ASGI."""

import asyncio
from collections.abc import Mapping

from litestar.types import Receive

from nebula.actors.gateway.budget import Hold
from nebula.http.errors import ApiError, unavailable

PART_PATIENCE = 30.0
"""Seconds within which the next part of a body has to come."""


class ClientLeft(Exception):
    """The client went away before its request was whole."""


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], limit: int, hold: Hold
) -> bytes:
    """Read a body of at most `limit` bytes, as far as `hold` has room for it.

    Where the client says beforehand how long it is, nothing is read of one that is refused. Raises
    ApiError 413, 503, or 408 for one that does not come on; ClientLeft.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit():
        size = int(length)
        if size > limit:
            raise _too_large(limit)
        if not hold.fits(size):
            raise _no_room()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not hold.grow(len(body)):
            raise _no_room()
        return bytes(body)
    parts = bytearray()
    while message["type"] == "http.request":
        part = message.get("body", b"")
        parts += part
        if len(parts) > limit:
            raise _too_large(limit)
        if not hold.grow(len(part)):
            raise _no_room()
        if not message.get("more_body"):
            return bytes(parts)
        try:
            async with asyncio.timeout(PART_PATIENCE):
                message = await receive()
        except TimeoutError:
            text = f"nothing more of the body came for {PART_PATIENCE:.0f} s"
            raise ApiError(408, text, kind="timeout", code="timeout") from None
    raise ClientLeft


def _no_room() -> ApiError:
    return unavailable("the gateway has as many bytes of requests in hand as it may")


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
