"""What the tests say to models, and how they read the answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


def chat(model: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def said(answer: httpx.Response) -> str:
    """Return what a chat model said."""
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the inside of an error in OpenAI's form, after a look at its form."""
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
    """Yield the events of a stream as they come; the end of a whole one is [DONE]."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line and not line.startswith(":"):
            yield json.loads(line.removeprefix("data: "))


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Put together what a streamed chat has said."""
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


class Heard:
    """What a client has of one streamed answer: its bytes, and what they say.

    Event ids are there where the answer is resumable. `whole`: it has ended with [DONE].
    `comments`: how many there were; they are not part of `raw`.
    """

    def __init__(self) -> None:
        self.request = ""
        self.raw = b""
        self.chunks: list[dict[str, Any]] = []
        self.event_ids: list[int] = []
        self.error: dict[str, Any] | None = None
        self.whole = False
        self.comments = 0

    def take(self, event: bytes) -> None:
        """Take one event, without the empty line behind it, and the comments before it."""
        lines = event.split(b"\n")
        said = [line for line in lines if not line.startswith(b":")]
        self.comments += len(lines) - len(said)
        if not said:
            return
        self.raw += b"\n".join(said) + b"\n\n"
        fields = dict(line.split(": ", 1) for line in b"\n".join(said).decode().splitlines())
        if "id" in fields:
            self.event_ids.append(int(fields["id"]))
        if fields["data"] == "[DONE]":
            self.whole = True
            return
        data = json.loads(fields["data"])
        if "error" in data:
            self.error = data["error"]
        else:
            self.chunks.append(data)

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or ""
            for choice in self._choices()
        )

    @property
    def token_ids(self) -> list[int]:
        """The answer's token ids, where they were asked for."""
        return [number for choice in self._choices() for number in choice.get("token_ids") or ()]

    @property
    def ids(self) -> set[str]:
        """The ids that its chunks carry: of a sound answer one."""
        return {chunk["id"] for chunk in self.chunks}

    @property
    def roles(self) -> int:
        """How many chunks have a role: of a sound chat one."""
        return sum("role" in choice.get("delta", {}) for choice in self._choices())

    @property
    def ends(self) -> list[str]:
        """Why it ended: of a sound answer one reason."""
        return [choice["finish_reason"] for choice in self._choices() if choice["finish_reason"]]

    @property
    def usage(self) -> list[dict[str, int]]:
        """The usage it told: once, where it was asked for."""
        return [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]

    def _choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]


async def listen(answer: httpx.Response, heard: Heard | None = None) -> Heard:
    """Hear a stream to its end; `heard` fills meanwhile, and keeps what came before a break."""
    heard = heard or Heard()
    assert answer.status_code == 200, await answer.aread()
    heard.request = answer.headers["x-request-id"]
    rest = b""
    async for part in answer.aiter_bytes():
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            heard.take(event)
    assert not rest, "the stream ends inside an event"
    return heard


async def stream(
    http: httpx.AsyncClient,
    body: dict[str, Any],
    heard: Heard | None = None,
    *,
    path: str = CHAT,
    **headers: str,
) -> Heard:
    """Ask for a streamed answer and hear it to its end; `Last_Event_ID` is such a header."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    asking = http.stream("POST", path, json={**body, "stream": True}, headers=named)
    async with asking as answer:
        return await listen(answer, heard)


async def resume(
    http: httpx.AsyncClient, request: str, after: int = 0, heard: Heard | None = None
) -> Heard:
    """Ask for the rest of a streamed answer and hear it to its end."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    async with http.stream("GET", f"/v1/streams/{request}", headers=headers) as answer:
        return await listen(answer, heard)


def words(number: int, count: int) -> str:
    """Return what the simulated engine answers to `prompt(number)` with so many tokens."""
    said = (prompt(number).split() * count)[:count]
    return " ".join(said)


def prompt(number: int) -> str:
    """Return a prompt by whose answer one sees a token that is missing, doubled or another's."""
    return f"a{number} b{number} c{number} d{number} e{number}"
