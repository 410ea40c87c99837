"""The work of streams at an engine's pace, and of one stream after the other."""

import asyncio
import gc
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

from .figures import Measured, percentile
from .processes import Failed, cpu_seconds, spent
from .standin import WORDS
from .streams import Connection, Streamed, connect, request, run
from .throughput import Asked
from .ways import Serving

TOKENS = 200
STEP = 0.01
_PATIENCE = 30  # seconds: an answer should take about 2


def measure_paced(
    asked: Asked, connections: int, way: Serving, seconds: float, _folder: Path
) -> Measured:
    """Keep streams going on so many connections. Raise Failed."""
    before = cpu_seconds(way.roots)
    answers = run(_concurrent(asked, connections, way, seconds))
    cpu = spent(before, cpu_seconds(way.roots))
    good = _good(answers, asked, way)
    tokens = len(good) * asked.tokens
    ends = max(answer.arrivals[-1][0] for answer in good)
    waits = [gap for answer in good for gap in gaps(answer)]
    firsts = [answer.first - answer.asked for answer in good]
    figures = {
        "rate": tokens / (ends - min(answer.asked for answer in good)),
        "cpu": sum(cpu.values()) / tokens * 1000,
        **_percentiles(waits),
        "first": percentile(firsts, 0.5) * 1000,
    }
    return Measured(figures, len(answers) - len(good), len(good), tokens, cpu)


def measure_single(asked: Asked, way: Serving, seconds: float, _folder: Path) -> Measured:
    """Ask one stream after the other on one connection. Raise Failed."""
    before = cpu_seconds(way.roots)
    answers = run(_alone(asked, way, seconds))
    cpu = spent(before, cpu_seconds(way.roots))
    good = _good(answers, asked, way)
    figures = _percentiles([answer.first - answer.asked for answer in good])
    return Measured(figures, len(answers) - len(good), len(good), len(good) * asked.tokens, cpu)


def gaps(answer: Streamed) -> list[float]:
    """Return the seconds between one token and the next.

    The first event opens the answer and comes with the first token, so it has no gap. Tokens that
    come in one read have none between them: a reader waits only for the first.
    """
    events = [moment for moment, count in answer.arrivals for _ in range(count)][1:]
    return [later - sooner for sooner, later in itertools.pairwise(events)]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    parts = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    return {name: percentile(seconds, part) * 1000 for name, part in parts.items()}


def _good(answers: Sequence[Streamed], asked: Asked, way: Serving) -> list[Streamed]:
    """Return the answers that are whole. Raise Failed when none is."""
    good = [
        answer
        for answer in answers
        if answer.whole
        and answer.first
        and (way.own_engine or sum(count for _, count in answer.arrivals) >= asked.tokens)
    ]
    if not good:
        raise Failed(f"none of {len(answers)} answers was whole")
    return good


def _first(way: Serving) -> bytes:
    """Return what the first token holds."""
    return b"data: {" if way.own_engine else WORDS[0].encode()


async def _concurrent(asked: Asked, streams: int, way: Serving, seconds: float) -> list[Streamed]:
    """Keep all streams going, each on its connection, until the time is over."""
    wire = request(way.url + asked.path, asked.body, way.headers)
    deadline = time.perf_counter() + seconds
    answers: list[Streamed] = []

    async def keep(connection: Connection, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            answer = await asyncio.wait_for(connection.ask(wire), _PATIENCE)
            answers.append(answer)
            if not answer.whole or time.perf_counter() >= deadline:
                return

    connections = [await connect(way.url, _first(way)) for _ in range(streams)]
    gc.disable()
    try:
        # Not all at the same moment: clients do not agree on when to ask.
        tasks = [keep(item, number * STEP / 8) for number, item in enumerate(connections)]
        await asyncio.gather(*tasks)
    except TimeoutError as error:
        raise Failed(f"a stream did not end in {_PATIENCE} s") from error
    finally:
        gc.enable()
        for connection in connections:
            connection.close()
    return answers


async def _alone(asked: Asked, way: Serving, seconds: float) -> list[Streamed]:
    """Ask one request after the other on one connection until the time is over."""
    wire = request(way.url + asked.path, asked.body, way.headers)
    deadline = time.perf_counter() + seconds
    answers: list[Streamed] = []
    connection = await connect(way.url, _first(way))
    try:
        while time.perf_counter() < deadline and (not answers or answers[-1].whole):
            answers.append(await asyncio.wait_for(connection.ask(wire), _PATIENCE))
    except TimeoutError as error:
        raise Failed(f"a stream did not end in {_PATIENCE} s") from error
    finally:
        connection.close()
    return answers
