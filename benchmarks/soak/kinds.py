"""Kinds of clients: what each asks, how it behaves, and what has to come of it."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from benchmarks.client import Answer, Connection, Refused, connect
from benchmarks.data_plane.streams import request

CHAT_MODEL = "bench"
EMBEDDING_MODEL = "embed"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
DIMENSIONS = 384
SILENCE = 60.0  # seconds without news after which a request hangs
SLOW_BUFFER = 4096  # bytes that a client which reads slowly lets the kernel keep for it
SLOW_PAUSE = 0.4  # seconds that it takes to read as many
_SAID = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho"
_WORDS = _SAID.split()


class Done(NamedTuple):
    """What came of a client: "" or what is wrong, and its latencies (s) by what was waited for."""

    wrong: str
    latencies: dict[str, float]


class Wrong(Exception):
    """Not what had to come; the text says what came."""


class Clients:
    """Clients of some gateways. Usual ones keep their connections; those that break off do not."""

    def __init__(self, gateways: Sequence[str], seed: int) -> None:
        self._gateways = gateways
        self._chance = random.Random(seed)
        self._idle: dict[str, list[Connection]] = {url: [] for url in gateways}

    async def be(self, kind: str) -> Done:
        """Be a client of a kind."""
        latencies: dict[str, float] = {}
        try:
            async with asyncio.timeout(10 * SILENCE):
                await KINDS[kind].be(self, latencies)
        except Wrong as error:
            return Done(str(error), latencies)
        except Refused as error:
            return Done(f"connection refused: {error}", latencies)
        except TimeoutError:
            return Done(f"not done in {10 * SILENCE:.0f} s", latencies)
        return Done("", latencies)

    def close(self) -> None:
        """Close what is kept open."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

    # The kinds

    async def chat(self, latencies: dict[str, float]) -> None:
        """Ask for a short answer at once."""
        answer = await self._ask(CHAT, _chat(self._prompt(), 16))
        said = json.loads(_good(answer))["choices"][0]["message"]["content"]
        if len(said.split()) != 16:
            raise Wrong(f"an answer of {len(said.split())} tokens")
        latencies["answer"] = answer.news - answer.asked

    async def short(self, latencies: dict[str, float]) -> None:
        """Read a short stream."""
        await self._stream(32, latencies)

    async def medium(self, latencies: dict[str, float]) -> None:
        """Read a stream of a usual length."""
        await self._stream(120, latencies)

    async def long(self, latencies: dict[str, float]) -> None:
        """Read a long stream."""
        await self._stream(500, latencies)

    async def embeddings(self, latencies: dict[str, float]) -> None:
        """Ask for the embedding of some texts."""
        texts = [self._prompt() for _ in range(self._chance.randint(1, 8))]
        body = json.dumps({"model": EMBEDDING_MODEL, "input": texts}).encode()
        answer = await self._ask(EMBEDDINGS, body)
        data = json.loads(_good(answer))["data"]
        if [len(item["embedding"]) for item in data] != [DIMENSIONS] * len(texts):
            raise Wrong("not the embeddings that were asked for")
        latencies["answer"] = answer.news - answer.asked

    async def leaving(self, latencies: dict[str, float]) -> None:  # noqa: ARG002
        """Leave in the middle of a stream."""
        await self._leave(self._gateway(), _chat(self._prompt(), 400, stream=True), {})

    async def slow(self, latencies: dict[str, float]) -> None:
        """Read a stream slower than it is written."""
        loop = asyncio.get_running_loop()
        tokens = 1200
        url = self._gateway()
        connection = await connect(url, buffer=SLOW_BUFFER)

        def pause(_: Answer) -> None:
            connection.pause()
            loop.call_later(SLOW_PAUSE, connection.resume)

        wire = request(url + CHAT, _chat(self._prompt(), tokens, stream=True))
        try:
            answer = await _news(connection, connection.ask(wire, pause))
        finally:
            connection.close()
        _whole(answer, tokens)
        latencies["end"] = answer.news - answer.asked

    async def unknown(self, latencies: dict[str, float]) -> None:
        """Ask for a model that is not there."""
        body = _chat(self._prompt(), 16).replace(b'"bench"', b'"no-such-model"')
        answer = await self._ask(CHAT, body)
        if answer.status != 404 or b"model_not_found" not in answer.body:
            raise Wrong(_told(answer))
        latencies["answer"] = answer.news - answer.asked

    async def broken(self, latencies: dict[str, float]) -> None:
        """Send a body that is not valid JSON."""
        answer = await self._ask(CHAT, _chat(self._prompt(), 16)[:-10])
        if answer.status != 400:
            raise Wrong(_told(answer))
        latencies["answer"] = answer.news - answer.asked

    async def twice(self, latencies: dict[str, float]) -> None:
        """Ask twice with the same key, the second time at another gateway."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        body = _chat(self._prompt(), 24)
        first, second = [_good(await self._ask(CHAT, body, headers, url)) for url in self._both()]
        if first != second:
            raise Wrong("another answer for the same key")
        latencies.clear()

    async def resuming(self, latencies: dict[str, float]) -> None:
        """Break off in the middle of a stream, and get the rest from another gateway."""
        tokens = 200
        one, other = self._both()
        body = _chat(self._prompt(), tokens, stream=True)
        left = await self._leave(one, body, {"X-Resumable": "true"})
        events, last = _numbered(bytes(left.body), 0)
        await asyncio.sleep(self._chance.random())
        headers = {"Last-Event-ID": str(last)}
        began = time.perf_counter()
        rest = await self._ask(f"/v1/streams/{left.id}", None, headers, other)
        events += _numbered(_good(rest), last)[0]
        if b"[DONE]" not in events[-1]:
            raise Wrong("the rest ends without [DONE]")
        if sum(b'"content":"' in event for event in events) < tokens:
            raise Wrong(f"only {len(events)} events")
        latencies["first"] = (rest.first or rest.news) - began

    # What they have in common

    def _gateway(self) -> str:
        return self._chance.choice(self._gateways)

    def _both(self) -> list[str]:
        return self._chance.sample(self._gateways, 2)

    def _prompt(self) -> str:
        words = self._chance.choices(_WORDS, k=self._chance.choice((8, 8, 40, 300)))
        return " ".join(words)

    async def _ask(
        self, path: str, body: bytes | None, headers: dict[str, str] | None = None, url: str = ""
    ) -> Answer:
        url = url or self._gateway()
        idle = self._idle[url]
        wire = request(url + path, body, headers)
        while True:
            kept = idle.pop() if idle else None
            if kept is not None and not kept.usable:
                continue
            connection = kept or await connect(url)
            answer = await _news(connection, connection.ask(wire))
            if kept is not None and not answer.whole and not answer.status:
                continue  # it was closed as unused when we began to
            if connection.usable:
                idle.append(connection)
            return answer

    async def _stream(self, tokens: int, latencies: dict[str, float]) -> None:
        answer = await self._ask(CHAT, _chat(self._prompt(), tokens, stream=True))
        _whole(answer, tokens)
        latencies["first"] = answer.first - answer.asked
        latencies["end"] = answer.news - answer.asked

    async def _leave(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Ask, and break the connection after some events. Raise Wrong."""
        connection = await connect(url)
        enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        events = self._chance.randint(5, 100)

        def count(answer: Answer) -> None:
            if answer.events >= events and not enough.done():
                enough.set_result(None)

        ended = connection.ask(request(url + CHAT, body, headers), count)
        try:
            await asyncio.wait((enough, ended), timeout=SILENCE, return_when="FIRST_COMPLETED")
        finally:
            connection.close()
        if not enough.done():
            raise Wrong(_told(connection.answer))
        return connection.answer


async def _news(connection: Connection, ended: asyncio.Future[Answer]) -> Answer:
    """Wait for the end of an answer, as long as there is news of it. Raise Wrong."""
    while not ended.done():
        left = connection.answer.news + SILENCE - time.perf_counter()
        if left <= 0:
            connection.close()
            raise Wrong(f"no news for {SILENCE:.0f} s")
        await asyncio.wait((ended,), timeout=left)
    return ended.result()


def _chat(said: str, tokens: int, *, stream: bool = False) -> bytes:
    body = {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": said}],
        "max_tokens": tokens,
        "stream": stream,
    }
    return json.dumps(body).encode()


def _good(answer: Answer) -> bytes:
    """Return the body of an answer that is whole. Raise Wrong."""
    if not answer.whole or answer.status != 200:
        raise Wrong(_told(answer))
    return bytes(answer.body)


def _numbered(body: bytes, last: int) -> tuple[list[bytes], int]:
    """Return a resumable stream's events after the last one, and their last id. Raise Wrong."""
    events = body.split(b"\n\n")[:-1]
    for event in events:
        _no_error(event)
        last += 1
        if not event.startswith(b"id: %d\n" % last):
            raise Wrong(f"event {last} has another id: {event[:20].decode(errors='replace')}")
    return events, last


def _no_error(body: bytes) -> None:
    """Look for an error event. Raise Wrong."""
    at = body.find(b'data: {"error"')
    if at >= 0:
        raise Wrong(body[at:][:200].decode(errors="replace"))


def _whole(answer: Answer, tokens: int) -> None:
    """Check a stream. Raise Wrong."""
    body = _good(answer)
    _no_error(body)
    events = body.count(b"data: {")
    if not body.endswith(b"data: [DONE]\n\n") or events < tokens:
        end = body[-160:].decode(errors="replace")
        raise Wrong(f"a stream of {events} events, {tokens} tokens were asked for: {end}")


def _told(answer: Answer) -> str:
    if not answer.whole and not answer.status:
        return "the connection ended without an answer"
    end = "" if answer.whole else ", broken off"
    return f"{answer.status}{end}: {bytes(answer.body[-200:]).decode(errors='replace')}"


class Kind(NamedTuple):
    """How many of a thousand clients are of this kind, and what they do."""

    share: int
    be: Callable[[Clients, dict[str, float]], Awaitable[None]]


KINDS = {
    "chat": Kind(300, Clients.chat),
    "short stream": Kind(200, Clients.short),
    "stream": Kind(120, Clients.medium),
    "long stream": Kind(40, Clients.long),
    "embeddings": Kind(200, Clients.embeddings),
    "leaves in the middle": Kind(40, Clients.leaving),
    "reads slowly": Kind(5, Clients.slow),
    "unknown model": Kind(20, Clients.unknown),
    "bad JSON": Kind(20, Clients.broken),
    "same key twice": Kind(25, Clients.twice),
    "resumes elsewhere": Kind(30, Clients.resuming),
}
