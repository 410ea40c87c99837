"""The console and the six connections that a browser has for a server."""

import pytest

from tests.integration.browser import Console, chromium
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

CONNECTIONS = 6
"""What Chromium opens to one server over HTTP/1.1, at most."""


async def test_pages_that_were_left_keep_no_connection(cluster: Cluster) -> None:
    """A browser keeps pages that were left, for its way back, and their streams with them."""
    await cluster.ready()
    async with chromium("--disable-back-forward-cache") as browser:
        seen = Console(
            await (await browser.new_context()).new_page(), f"http://127.0.0.1:{cluster.port}"
        )
        for number in range(CONNECTIONS + 2):
            await seen.open(("/nodes", "/models", "/events", "/keys")[number % 4])
            await seen.sees("Live", ".timebar.live")
        await cluster.load("later", memory="64MiB")
        await seen.open("/models")
        await seen.sees("later", "tbody")
        assert not seen.faults
