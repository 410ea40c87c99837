"""The work of connections that ask one request after the other, with no pause: wrk's load."""

import json
from pathlib import Path
from typing import NamedTuple

import httpx

from .figures import Measured
from .processes import Failed, cpu_seconds, spent
from .standin import DIMENSIONS
from .ways import Serving
from .wrk import load


class Asked(NamedTuple):
    """A request, and the tokens of its answer; an embedding has none."""

    path: str
    body: bytes
    tokens: int
    stream: bool


def measure_throughput(
    asked: Asked, connections: int, way: Serving, seconds: float, folder: Path
) -> Measured:
    """Ask for so many seconds, after one answer was looked into. Raise Failed."""
    answer = httpx.post(
        way.url + asked.path,
        content=asked.body,
        headers={"Content-Type": "application/json", **way.headers},
        trust_env=False,
        timeout=30,
    )
    if answer.status_code != 200 or not _whole(asked, answer.text, own=way.own_engine):
        raise Failed(f"a wrong answer: {answer.status_code} {answer.text[:300]}")
    before = cpu_seconds(way.roots)
    done = load(way.url + asked.path, asked.body, connections, seconds, folder, way.headers)
    cpu = spent(before, cpu_seconds(way.roots))
    if done.good == 0:
        raise Failed(f"no good answer, {done.failed} failed")
    # wrk does not look into answers. An answer that was cut short would be smaller than the first.
    least = 0.5 if way.own_engine else 0.9
    if done.bytes / (done.good + done.failed) < least * len(answer.content):
        raise Failed(f"answers are cut short: {done.bytes} bytes for {done.good} of them")
    figures = {
        "rate": done.good / done.seconds,
        "cpu": sum(cpu.values()) / done.good * 1000,
        "p50": done.p50,
        "p99": done.p99,
        "p99.9": done.p999,
    }
    return Measured(figures, done.failed, done.good, done.good * asked.tokens, cpu)


def _whole(asked: Asked, text: str, *, own: bool) -> bool:
    """Whether an answer is all that was asked for.

    `own`: the engine is the way's own, which says other words: then only the end is looked for.
    """
    if asked.stream:
        events = text.count("data: {")
        return (own or events >= asked.tokens) and "data: [DONE]" in text
    answer = json.loads(text)
    if not asked.tokens:
        vector = answer["data"][0]["embedding"]
        return len(vector) == (DIMENSIONS * 16 // 3 if isinstance(vector, str) else DIMENSIONS)
    choice = answer["choices"][0]
    if own:
        return bool(choice["finish_reason"] == "length")
    return len(choice["message"]["content"].split()) == asked.tokens
