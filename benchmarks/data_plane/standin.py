"""A stand-in for a vLLM server that costs little and sends its chunks as it is asked to.

It runs by itself: `python standin.py --model NAME --port N` with vLLM's flags, under uvicorn, and
imports nothing of Nebula. So it is the same program behind every gateway. A middleware that is
named on its command line is put around it, as vLLM does that.

How an answer is sent is said by the first word of a prompt:

=========  ======================================================================================
word       chunks of a stream
=========  ======================================================================================
``all``    all of them in one turn of the event loop
``turn``   one in each turn of the event loop
``step``   one in each step of the engine (``--step`` seconds), in which all streams get theirs
=========  ======================================================================================

An answer has as many tokens as `max_tokens` says. It ends where its client is gone.
"""

import argparse
import asyncio
import base64
import functools
import importlib
import json
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_TEXT = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi"
WORDS = _TEXT.split(" ")
DIMENSIONS = 384
CONTEXT = 131_072

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_DONE = b"data: [DONE]\n\n"


class Steps:
    """The steps of an engine: all that wait for the next one go on in the same turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    async def next(self) -> None:
        """Wait for the next step."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            for each in waiting:
                if not each.done():
                    each.set_result(None)


class Engine:
    """The engine's ASGI application."""

    def __init__(self, names: Sequence[str], adapters: Sequence[str], step: float) -> None:
        self.state = SimpleNamespace()
        self._names = list(names)
        self._adapters = list(adapters)
        self._steps = Steps(step)
        self._running = self._tokens = 0
        self._stack: App = self._answer
        self._paths = {
            "/v1/chat/completions": self._chat,
            "/v1/embeddings": self._embed,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/v1/models": self._models,
            "/health": self._health,
            "/version": self._version,
            "/metrics": self._metrics,
        }

    def wrap(self, path: str) -> None:
        """Put a middleware around it: the class at an import path."""
        module, _, name = path.rpartition(".")
        self._stack = getattr(importlib.import_module(module), name)(self._stack)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        scope.setdefault("state", {})
        await self._stack(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        work = self._paths.get(scope["path"])
        if work is None:
            await _reply(send, b'{"detail":"Not Found"}', 404)
            return
        body = b""
        if scope["method"] == "POST":
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
        self._running += 1
        try:
            await work(json.loads(body) if body else {}, send)
        except OSError:
            pass  # its client is gone
        finally:
            self._running -= 1

    async def _chat(self, request: dict[str, Any], send: Send) -> None:
        model = request["model"]
        if model not in self._names and model not in self._adapters:
            await _reply(send, _error(f"The model `{model}` does not exist."), 404)
            return
        text = "".join(str(message["content"]) for message in request["messages"])
        count = request.get("max_completion_tokens") or request.get("max_tokens") or 16
        read = 1 + len(text) // 4
        ids = bool(request.get("return_token_ids"))
        head = f'"id":"chatcmpl-{uuid.uuid4().hex}","created":{int(time.time())},"model":"{model}"'
        usage = (
            f'{{"prompt_tokens":{read},"total_tokens":{read + count},"completion_tokens":{count}}}'
        )
        if not request.get("stream"):
            self._tokens += count
            await _reply(send, _whole(head, count, read, ids, usage))
            return
        chunk = f'data: {{"object":"chat.completion.chunk",{head},"choices":['
        opening = f"{chunk}{_OPENING}{_numbers(read) if ids else 'null'}}}\n\n".encode()
        before, texts = chunk.encode() + b'{"index":0,"delta":{"content":', _texts(count, ids)
        closing = _DONE
        if (request.get("stream_options") or {}).get("include_usage"):
            closing = f'{chunk}],"usage":{usage}}}\n\n'.encode() + _DONE
        start = {"type": "http.response.start", "status": 200, "headers": [_EVENTS]}
        await send(start)
        word = text.partition(" ")[0]
        for number, rest in enumerate(texts):
            if word == "step":
                await self._steps.next()
            elif word != "all":
                await asyncio.sleep(0)
            if not number:
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            body = before + rest
            await send({"type": "http.response.body", "body": body, "more_body": True})
            self._tokens += 1
        await send({"type": "http.response.body", "body": closing, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _embed(self, request: dict[str, Any], send: Send) -> None:
        given = request["input"]
        texts = given if isinstance(given, list) else [given]
        coded = request.get("encoding_format") == "base64"
        vector = _vector(coded)
        data = [
            f'{{"index":{index},"object":"embedding","embedding":{vector}}}'
            for index in range(len(texts))
        ]
        read = sum(1 + len(str(text)) // 4 for text in texts)
        usage = f'{{"prompt_tokens":{read},"total_tokens":{read},"completion_tokens":0}}'
        answer = (
            f'{{"id":"embd-{uuid.uuid4().hex}","object":"list","created":{int(time.time())},'
            f'"model":"{request["model"]}","data":[{",".join(data)}],"usage":{usage}}}'
        )
        await _reply(send, answer.encode())

    async def _load(self, request: dict[str, Any], send: Send) -> None:
        self._adapters.append(request["lora_name"])
        await _reply(send, b"Success")

    async def _unload(self, request: dict[str, Any], send: Send) -> None:
        self._adapters.remove(request["lora_name"])
        await _reply(send, b"Success")

    async def _models(self, _: dict[str, Any], send: Send) -> None:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "vllm",
                "root": name,
                "parent": None if name in self._names else self._names[0],
                "max_model_len": CONTEXT,
            }
            for name in (*self._names, *self._adapters)
        ]
        await _reply(send, json.dumps({"object": "list", "data": cards}).encode())

    async def _health(self, _: dict[str, Any], send: Send) -> None:
        await _reply(send, b"")

    async def _version(self, _: dict[str, Any], send: Send) -> None:
        await _reply(send, b'{"version":"0.32.0"}')

    async def _metrics(self, _: dict[str, Any], send: Send) -> None:
        label = f'{{engine="0",model_name="{self._names[0]}"}}'
        text = (
            f"vllm:num_requests_running{label} {self._running}.0\n"
            f"vllm:num_requests_waiting{label} 0.0\n"
            f"vllm:kv_cache_usage_perc{label} 0.0\n"
            f"vllm:generation_tokens_total{label} {self._tokens}.0\n"
        )
        await _reply(send, text.encode())


_OPENING = (
    '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    '"prompt_token_ids":'
)


async def _reply(send: Send, body: bytes, status: int = 200) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error(text: str) -> bytes:
    error = {"message": text, "type": "NotFoundError", "param": "model", "code": 404}
    return json.dumps({"error": error}).encode()


def _whole(head: str, count: int, read: int, ids: bool, usage: str) -> bytes:
    text = " ".join(WORDS[number % len(WORDS)] for number in range(count))
    return (
        f'{{"object":"chat.completion",{head},"choices":[{{"index":0,"message":{{"role":'
        f'"assistant","content":"{text}","refusal":null,"tool_calls":[]}},"logprobs":null,'
        f'"finish_reason":"length","stop_reason":null,'
        f'"token_ids":{_numbers(count) if ids else "null"}}}],"usage":{usage},'
        f'"prompt_token_ids":{_numbers(read) if ids else "null"}}}'
    ).encode()


@functools.lru_cache
def _texts(count: int, ids: bool) -> tuple[bytes, ...]:
    """Return what the chunks of a stream of so many tokens have after `"content":`."""
    texts = []
    for number in range(count):
        word = json.dumps(" " * bool(number) + WORDS[number % len(WORDS)])
        reason = '"length","stop_reason":null' if number == count - 1 else "null"
        own = f"[{10_000 + number % 30_000}]" if ids else "null"
        end = f'}},"logprobs":null,"finish_reason":{reason},"token_ids":{own}}}]}}\n\n'
        texts.append(f"{word}{end}".encode())
    return tuple(texts)


@functools.lru_cache
def _numbers(count: int) -> str:
    """Return so many token ids as JSON."""
    return f"[{','.join(str(10_000 + number % 30_000) for number in range(count))}]"


@functools.lru_cache
def _vector(coded: bool) -> str:
    values = [((number * 7919) % 2000 - 1000) / 19_601 for number in range(DIMENSIONS)]
    packed = struct.pack(f"<{DIMENSIONS}f", *values)
    if coded:
        return json.dumps(base64.b64encode(packed).decode())
    return json.dumps(struct.unpack(f"<{DIMENSIONS}f", packed))


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flag = parser.add_argument
    flag("--model", required=True)
    flag("--served-model-name", nargs="+")
    flag("--lora-modules", nargs="+", default=[])
    flag("--host", default="127.0.0.1")
    flag("--port", type=int, required=True)
    flag("--uds")
    flag("--middleware", action="append", default=[])
    flag("--step", type=float, default=0.01)
    known, _ = parser.parse_known_args()  # vLLM has many more
    adapters = [module.partition("=")[0] for module in known.lora_modules]
    engine = Engine(known.served_model_name or [known.model], adapters, known.step)
    for path in known.middleware:
        engine.wrap(path)
    uvicorn.run(
        engine,
        host=known.host,
        port=known.port,
        uds=known.uds,
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
