"""Real vLLM under load: the tokens that every way brings from the same engine."""

import asyncio
import functools
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

from .figures import Figure, Measured, Work
from .processes import Failed
from .streams import Streamed, connect, request, run
from .ways import MODEL, Serving

TOKENS = 48
EACH = 3  # answers of every stream in one measurement
PATIENCE = 300

# No two requests of a run have the same prompt: none is answered from a cache that another filled.
_numbers = itertools.count(1_000_000)


def _body(number: int) -> bytes:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Count up from {number}."}],
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    return json.dumps(body).encode()


def _measure(streams: int, way: Serving, seconds: float, _folder: Path) -> Measured:
    # A second is enough to warm up with. Else the load has a size and no time: an answer that
    # is half done when time is over would be half lost.
    requests = streams * (EACH if seconds > 1 else 1)
    began = time.perf_counter()
    answers = run(_answers(way.url, streams, requests))
    took = time.perf_counter() - began
    # The engine may send several tokens at once, so the events are not counted: what is asked
    # for has a fixed length, and is there when the answer is whole.
    good = sum(answer.whole for answer in answers)
    if not good:
        raise Failed(f"none of {len(answers)} answers was whole")
    figures = {"rate": good * TOKENS / took}
    return Measured(figures, len(answers) - good, good, good * TOKENS, {})


async def _answers(url: str, streams: int, requests: int) -> list[Streamed]:
    url += "/v1/chat/completions"
    wires = (request(url, _body(next(_numbers))) for _ in range(requests))
    answers: list[Streamed] = []
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(_keep(url, wires, answers) for _ in range(streams)))
    except TimeoutError as error:
        raise Failed(f"{requests} answers did not end in {PATIENCE} s") from error
    return answers


async def _keep(url: str, wires: Iterator[bytes], answers: list[Streamed]) -> None:
    connection = await connect(url, b"data: {")
    try:
        for wire in wires:
            answers.append(await connection.ask(wire))
    finally:
        connection.close()


WORKS = tuple(
    Work(
        "vllm",
        f"streams of {TOKENS} tokens",
        "real vLLM",
        "vllm",
        streams,
        (Figure("rate", "tokens/s", compared=True),),
        functools.partial(_measure, streams),
    )
    for streams in (8, 32)
)
