"""A request's own page in the console, in a real browser."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.asking import CHAT, chat
from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.test_console_keys import issue

pytestmark = pytest.mark.anyio

SLOW = {"simulate-token": 0.05, "simulate-tokens": 5000}
"""An answer takes minutes, so that it ends only when it is ended."""


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


@contextlib.asynccontextmanager
async def streaming(cluster: Cluster, model: str) -> AsyncIterator[str]:
    """Ask for a long stream, and yield its id once it has begun."""
    body = chat(model, max_tokens=4000, stream=True)
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_bytes()
        await anext(pieces)

        async def read() -> None:
            with contextlib.suppress(httpx.HTTPError):
                async for _ in pieces:
                    pass

        reading = asyncio.create_task(read())
        try:
            yield answer.headers["x-request-id"]
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def test_a_request_in_flight_is_opened_and_cancelled(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("slow", memory="64MiB", options=SLOW)
    async with console(base) as seen, streaming(cluster, "slow") as request:
        page = seen.page
        await seen.open("/requests")
        await page.get_by_role("link", name=request).press("Enter")
        await page.wait_for_url(f"**/console/requests/{request}")
        await seen.sees("running", "h1")
        await seen.sees("slow-0", "dl")
        await seen.sees("sent it to slow-0", ".tree")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await page.get_by_text("The same as a command").click()
        await seen.sees(f"nebula requests cancel {request}", ".ways")
        await page.get_by_role("button", name="Cancel this request").click()
        await seen.sees("It was cancelled.")
        await seen.sees("ended", "h1")


async def test_the_page_tells_where_a_stream_went_on(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("twice", memory="64MiB", replicas=2, options=SLOW)
    async with console(base) as seen, streaming(cluster, "twice") as request:
        async with cluster.http() as http:
            shown: dict[str, Any] = (await http.get(f"/admin/requests/{request}")).json()
        first = shown["in_flight"]["replica"]
        other = {"twice-0": "twice-1", "twice-1": "twice-0"}[first]
        await seen.open(f"/requests/{request}")
        await seen.sees(f"sent it to {first}", ".tree")
        os.kill((await cluster.engine(first)).pid, signal.SIGKILL)
        await seen.sees("asked again for the rest of the answer", ".tree")
        await seen.sees(f"{first} had it", ".reasons")
        await seen.sees(f"{other} continues the answer", ".tree")
        await seen.sees("once", "dl")


async def test_a_request_is_found_by_an_id_of_its_callers(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with cluster.http() as http:
        headers = {"x-request-id": "job-4711"}
        assert (await http.post(CHAT, json=chat("chat"), headers=headers)).status_code == 200
    async with console(base) as seen:
        await seen.open("/requests")
        await seen.page.get_by_label("Id of a request").fill("job-4711")
        await seen.page.keyboard.press("Enter")
        await seen.sees("answered: HTTP 200", ".headline")
        assert not await seen.page.get_by_role("button", name="Cancel").count()


async def test_a_request_of_another_tenant_is_not_shown(cluster: Cluster) -> None:
    asks = await issue(cluster, "asks", tenant="theirs")
    mine = await issue(cluster, "looks", scopes=["view"], tenant="mine")
    theirs = await issue(cluster, "sees", scopes=["view"], tenant="theirs")
    if "chat" not in (await cluster.state()).models:
        await cluster.load("chat", memory="64MiB")
    async with cluster.http() as http:

        async def shown(secret: str, request: str) -> int:
            headers = {"authorization": f"Bearer {secret}"}
            return (await http.get(f"/admin/requests/{request}", headers=headers)).status_code

        headers = {"authorization": f"Bearer {asks}"}
        answer = await http.post(CHAT, json=chat("chat"), headers=headers)
        request = answer.headers["x-request-id"]
        assert (await shown(theirs, request), await shown(mine, request)) == (200, 404)
        assert await shown(theirs, "unknown") == 404
