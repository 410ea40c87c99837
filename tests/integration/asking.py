"""What the tests say to models, and how they read the answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

CHAT = "/v1/chat/completions"


def chat(model: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Give the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def said(answer: httpx.Response) -> str:
    """Give what a chat model said."""
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Give the inside of an error in OpenAI's form, after a look at its form."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["type"]
    found: dict[str, Any] = body["error"]
    return found


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Give the events of a stream as they come; the end of a whole one is [DONE]."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix("data: "))


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Put together what a streamed chat has said."""
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
