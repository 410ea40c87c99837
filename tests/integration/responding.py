"""OpenAI's own client of a gateway, and how tests wait for a response in the background."""

import asyncio

import openai
from openai.types.responses import Response


def client_of(port: int, key: str = "mine") -> openai.AsyncOpenAI:
    """Return OpenAI's own client of a gateway."""
    url = f"http://127.0.0.1:{port}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)


async def over(client: openai.AsyncOpenAI, identity: str) -> Response:
    """Poll a response to its end, as OpenAI's examples do, past a gateway that is away."""
    while True:
        try:
            found = await client.responses.retrieve(identity)
        except (openai.APIConnectionError, openai.InternalServerError):
            await asyncio.sleep(0.2)
            continue
        if found.status not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.2)
