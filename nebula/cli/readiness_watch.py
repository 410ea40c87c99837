"""Prints in `nebula up` when its gateway is no longer ready, why, and when it is ready again."""

import asyncio
import logging

import httpx

from nebula.http.server.unix_sockets import SCHEME

log = logging.getLogger(__name__)

EVERY = 3.0
"""Seconds between two requests to `/ready`."""


def client(address: str) -> httpx.AsyncClient:
    """Return a client of the gateway at an address, which may be `unix:PATH`."""
    if not address.startswith(SCHEME):
        return httpx.AsyncClient(base_url=address, trust_env=False)
    transport = httpx.AsyncHTTPTransport(uds=address.removeprefix(SCHEME))
    return httpx.AsyncClient(base_url="http://localhost", transport=transport, trust_env=False)


async def reason(client: httpx.AsyncClient) -> str | None:
    """Return why a gateway is not ready ("" if it does not say), or None if it is ready."""
    try:
        answer = await client.get("/ready")
        if answer.status_code == 200:
            return None
        return str(answer.json()["error"]["message"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""


def kind(told: str) -> str:
    """Return a reason without its figures, so that each reason is printed once."""
    return "".join(each for each in told if not each.isdigit())


async def tell(address: str) -> None:
    """Watch a gateway that has been ready, for ever; print nothing while it restarts."""
    said = ""
    async with client(address) as asking:
        while True:
            await asyncio.sleep(EVERY)
            why = await reason(asking)
            if why and kind(why) != kind(said):
                log.warning("not ready: %s", why)
                said = why
            elif why is None and said:
                log.warning("ready again")
                said = ""
