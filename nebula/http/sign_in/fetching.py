"""Requests to a provider, bounded in time and size. Redirects are not followed."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from nebula.events.reading import UNREADABLE

if TYPE_CHECKING:
    import httpx

PATIENCE = 10.0
"""Seconds for a whole answer."""

LARGEST = 1024 * 1024
"""Bytes of an answer, at most."""


class ProviderFailed(Exception):
    """The provider does not do its part; the text says what it does instead."""


async def asked(
    client: "httpx.AsyncClient",
    url: str,
    form: Mapping[str, str] | None = None,
    *,
    user: tuple[str, str] | None = None,
    patience: float = PATIENCE,
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object with which a provider answers. Raise ProviderFailed.

    `form`: what is posted. `user`: the client's name and secret.
    """
    import httpx  # which gateways without sign-in spare

    try:
        async with asyncio.timeout(patience):
            request = client.build_request(
                "GET" if form is None else "POST",
                url,
                data=form,
                headers={"accept": "application/json"},
            )
            answer = await client.send(
                request, stream=True, auth=httpx.BasicAuth(*user) if user else None
            )
            try:
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        raise ProviderFailed(f"{url} answers with more than {LARGEST} bytes")
            finally:
                await answer.aclose()
    except TimeoutError as error:
        raise ProviderFailed(f"{url} has not answered within {patience:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderFailed(f"{url} can't be reached: {error or type(error).__name__}") from error
    try:
        return answer.status_code, msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE as error:
        raise ProviderFailed(f"{url} answers {answer.status_code} and no JSON object") from error
