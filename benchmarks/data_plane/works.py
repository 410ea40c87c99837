"""What is asked of simulated engines by every way, and the figures that come of it."""

import asyncio
import gc
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from .figures import Figure, Measured, Work, percentile
from .processes import Failed, cpu_seconds, spent
from .streams import Connection, Streamed, connect, request, run
from .ways import MODEL, Serving
from .wrk import load

CONNECTIONS = 32
STREAMS = 64
TOKEN = 0.01
FIRST = "alpha"
PROMPT = f"{FIRST} beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi"


def _chat(tokens: int, *, stream: bool = False) -> bytes:
    said = [{"role": "user", "content": PROMPT}]
    body = {"model": MODEL, "messages": said, "max_tokens": tokens, "stream": stream}
    return json.dumps(body).encode()


def _whole(body: bytes, text: str) -> bool:
    """Whether an answer is all that was asked for: 16 tokens, 384 numbers or 128 chunks."""
    if json.loads(body).get("stream"):
        wanted: int = json.loads(body)["max_tokens"]
        return text.count("data: {") >= wanted and "data: [DONE]" in text
    answer = json.loads(text)
    if "input" in json.loads(body):
        return len(answer["data"][0]["embedding"]) == 384
    return len(answer["choices"][0]["message"]["content"].split()) == 16


def _throughput(path: str, body: bytes) -> Callable[[Serving, float, Path], Measured]:
    def measure(way: Serving, seconds: float, folder: Path) -> Measured:
        answer = httpx.post(
            way.url + path,
            content=body,
            headers={"Content-Type": "application/json", **way.headers},
            trust_env=False,
            timeout=30,
        )
        if answer.status_code != 200 or not _whole(body, answer.text):
            raise Failed(f"a wrong answer: {answer.status_code} {answer.text[:300]}")
        before = cpu_seconds(way.roots)
        done = load(way.url + path, body, CONNECTIONS, seconds, folder, way.headers)
        cpu = spent(before, cpu_seconds(way.roots))
        if done.good == 0:
            raise Failed(f"no good answer, {done.failed} failed")
        # wrk does not look into answers. An answer that was cut short would be smaller than the
        # first.
        if done.bytes / (done.good + done.failed) < 0.9 * len(answer.content):
            raise Failed(f"answers are cut short: {done.bytes} bytes for {done.good} of them")
        figures = {
            "rate": done.good / done.seconds,
            "cpu": sum(cpu.values()) / done.good * 1000,
        }
        return Measured(figures, done.failed, done.good, cpu)

    return measure


def gaps(answer: Streamed) -> list[float]:
    """Return the seconds between one token and the next.

    The first event opens the answer and comes with the first token, so it has no gap. Tokens that
    come in one read have none between them: a reader waits only for the first.
    """
    events = [moment for moment, count in answer.arrivals for _ in range(count)][1:]
    return [later - sooner for sooner, later in itertools.pairwise(events)]


def _paced(way: Serving, seconds: float, _folder: Path) -> Measured:
    tokens = 200
    httpx.post(f"{way.engine}/simulate", json={"token": TOKEN}, trust_env=False).raise_for_status()
    try:
        before = cpu_seconds(way.roots)
        answers = run(_concurrent(way, tokens, seconds))
        cpu = spent(before, cpu_seconds(way.roots))
    finally:
        httpx.post(f"{way.engine}/simulate", json={"token": 0.0}, trust_env=False)
    good = _good(answers, tokens)
    ends = max(answer.arrivals[-1][0] for answer in good)
    waits = [gap for answer in good for gap in gaps(answer)]
    figures = {
        "rate": len(good) * tokens / (ends - min(answer.asked for answer in good)),
        "p50": percentile(waits, 0.5) * 1000,
        "p99": percentile(waits, 0.99) * 1000,
        "cpu": sum(cpu.values()) / (len(good) * tokens) * 1000,
    }
    return Measured(figures, len(answers) - len(good), len(good) * tokens, cpu)


def _single(way: Serving, seconds: float, _folder: Path) -> Measured:
    tokens = 16
    before = cpu_seconds(way.roots)
    answers = run(_alone(way, tokens, seconds))
    cpu = spent(before, cpu_seconds(way.roots))
    good = _good(answers, tokens)
    times = [answer.first - answer.asked for answer in good]
    figures = {"p50": percentile(times, 0.5) * 1000, "p99": percentile(times, 0.99) * 1000}
    return Measured(figures, len(answers) - len(good), len(good), cpu)


def _good(answers: list[Streamed], tokens: int) -> list[Streamed]:
    """Return the answers that are whole. Raise Failed when none is."""
    good = [
        answer
        for answer in answers
        if answer.whole and answer.first and sum(count for _, count in answer.arrivals) >= tokens
    ]
    if not good:
        raise Failed(f"none of {len(answers)} answers was whole")
    return good


async def _concurrent(way: Serving, tokens: int, seconds: float) -> list[Streamed]:
    """Keep all streams going, each on its connection, until the time is over."""
    url = f"{way.url}/v1/chat/completions"
    wire = request(url, _chat(tokens, stream=True), way.headers)
    deadline = time.perf_counter() + seconds
    answers: list[Streamed] = []

    async def keep(connection: Connection, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            # Tokens should take about 2 s; ten times that is not a service any more.
            answer = await asyncio.wait_for(connection.ask(wire), 30)
            answers.append(answer)
            if not answer.whole or time.perf_counter() >= deadline:
                return

    connections = [await connect(url, FIRST.encode()) for _ in range(STREAMS)]
    gc.disable()
    try:
        # Not all at the same moment: clients do not agree on when to ask.
        tasks = [keep(item, number * TOKEN / 8) for number, item in enumerate(connections)]
        await asyncio.gather(*tasks)
    except TimeoutError as error:
        raise Failed("a stream did not end in 30 s") from error
    finally:
        gc.enable()
        for connection in connections:
            connection.close()
    return answers


async def _alone(way: Serving, tokens: int, seconds: float) -> list[Streamed]:
    """Ask one request after the other on one connection until the time is over."""
    url = f"{way.url}/v1/chat/completions"
    wire = request(url, _chat(tokens, stream=True), way.headers)
    deadline = time.perf_counter() + seconds
    answers: list[Streamed] = []
    connection = await connect(url, FIRST.encode())
    try:
        while time.perf_counter() < deadline and (not answers or answers[-1].whole):
            answers.append(await asyncio.wait_for(connection.ask(wire), 30))
    except TimeoutError as error:
        raise Failed("a stream did not end in 30 s") from error
    finally:
        connection.close()
    return answers


_EMBEDDINGS = json.dumps({"model": MODEL, "input": PROMPT}).encode()

ALL = {
    work.name: (work,)
    for work in (
        Work(
            "chat",
            f"chat, 16 tokens at once, {CONNECTIONS} connections",
            "chat",
            (Figure("rate", "requests/s"), Figure("cpu", "CPU ms/request")),
            _throughput("/v1/chat/completions", _chat(16)),
        ),
        Work(
            "stream",
            f"stream, 128 chunks without a pause, {CONNECTIONS} connections",
            "chat",
            (Figure("rate", "streams/s"), Figure("cpu", "CPU ms/stream")),
            _throughput("/v1/chat/completions", _chat(128, stream=True)),
        ),
        Work(
            "paced",
            f"{STREAMS} streams, a token each {TOKEN * 1000:.0f} ms",
            "chat",
            (
                Figure("rate", "tokens/s"),
                Figure("p50", "ms between tokens, p50"),
                Figure("p99", "ms between tokens, p99"),
                Figure("cpu", "CPU s/1,000 tokens"),
            ),
            _paced,
        ),
        Work(
            "single",
            "1 stream at a time, first token",
            "chat",
            (Figure("p50", "ms, p50"), Figure("p99", "ms, p99")),
            _single,
        ),
        Work(
            "embeddings",
            f"embedding of 384 numbers, {CONNECTIONS} connections",
            "embedding",
            (Figure("rate", "requests/s"), Figure("cpu", "CPU ms/request")),
            _throughput("/v1/embeddings", _EMBEDDINGS),
        ),
    )
}
