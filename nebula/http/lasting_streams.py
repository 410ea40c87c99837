"""Streams that may go on for ever: they end when the key that asked for them is not valid any more.

Answers of engines have an end, and a revocation lets those that have begun come to it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from litestar import Request
from litestar.response import ServerSentEventMessage

from nebula.http.authentication import check_scope
from nebula.http.errors import ApiError
from nebula.http.principals import still_required

T = TypeVar("T")

LOOK = 1.0
"""Seconds between two looks at the key while nothing comes."""

STILL_HERE = ServerSentEventMessage(comment="still here", data=None)
"""A comment for a silent stream; without `data=None`, an event with empty data as well."""


def error_event(error: ApiError) -> ServerSentEventMessage:
    """Return an event that tells why a stream ends."""
    return ServerSentEventMessage(event="error", data=error.payload.decode())


async def while_allowed(
    request: Request[Any, Any, Any],
    source: AsyncGenerator[T, None],
    last: Callable[[ApiError], T],
    every: float = LOOK,
) -> AsyncGenerator[T, None]:
    """Yield what `source` yields for as long as the key of a request opens its handler.

    `last`: returns what is yielded in the end if it does not any more.
    """
    async with aclosing(source):
        coming = asyncio.ensure_future(anext(source))
        try:
            while True:
                await asyncio.wait((coming,), timeout=every)
                try:
                    check_scope(request, request.route_handler, still_required)
                except ApiError as error:
                    yield last(error)
                    return
                if not coming.done():
                    continue
                try:
                    item = coming.result()
                except StopAsyncIteration:
                    return
                yield item
                coming = asyncio.ensure_future(anext(source))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
