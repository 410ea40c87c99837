"""HTTP requests to a hub, with bounds of size and time whatever it answers.

An answer's head is bounded by httpcore, to 100 KiB.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import httpx
from msgspec import Struct

SILENCE = 5.0
"""Seconds to connect to a hub, for an answer to begin, and between two pieces of a short one."""

HOPS = 10
"""Redirects in a row that are followed, at most."""

FAULTS = (httpx.HTTPError, httpx.InvalidURL, OverflowError, UnicodeError, ExceptionGroup)
"""The errors of a request. The last three: a redirect to an address that no socket accepts."""


class Overlong(Exception):
    """An answer is larger than any valid one; the text says how many bytes are taken."""


class Overdue(Exception):
    """An answer was not complete in time; the text says within how many seconds."""


class Answer(Struct, frozen=True):
    """An answer's status and headers, and its body if the status is 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


async def read(url: str, headers: Mapping[str, str], *, most: int, seconds: float) -> Answer:
    """Request an address, and return its answer of at most `most` bytes.

    Raise Overlong, Overdue after `seconds` in total, and FAULTS.
    """
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=SILENCE, headers=headers) as client,
            opened(client, url) as answer,
        ):
            if answer.status_code != 200:
                return Answer(answer.status_code, answer.headers)
            body = bytearray()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > most:
                    raise Overlong(f"more than {most} bytes came")
            return Answer(answer.status_code, answer.headers, bytes(body))
    except TimeoutError:
        raise Overdue(f"the answer was not complete within {seconds:.0f} s") from None


@contextlib.asynccontextmanager
async def opened(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    """Request an address and follow redirects; the caller reads the body.

    Bodies of redirects are not read: httpx itself would read them completely. Raise FAULTS.
    """
    request = client.build_request("GET", url, headers=headers)
    for _ in range(HOPS + 1):
        answer = await client.send(request, stream=True, follow_redirects=False)
        try:
            if answer.next_request is None:
                yield answer
                return
            request = answer.next_request
        finally:
            await answer.aclose()
    raise httpx.TooManyRedirects(f"it redirects more than {HOPS} times", request=request)
