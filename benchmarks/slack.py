"""What clients notice of work that no client waits for: their latency with and without it.

`python -m benchmarks.slack` from the repository's root. Clients come at random moments and ask for
streams; beside them nothing runs, or a batch of `/v1/batches`, or `--beside` requests of slack at a
time, or as many ordinary requests of the lowest priority, in turns and in one run. The engine is
simulated: a token takes `--token` seconds, and `--crowding` of that more for each request beside
it, as an engine computes a token of all its requests in one step. With `--real` it is vLLM with the
demo's chat model.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import openai

from benchmarks.client import Answer, ask
from benchmarks.cluster import Cluster, Wanted, start
from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import REPOSITORY, SIMULATED, environment, freeze, real_model
from benchmarks.session import context, folder_option, headline, keep, session
from benchmarks.slack_source import MODEL

KINDS = ("none", "batch", "slack", "ordinary")
_PATH: Final = "/v1/chat/completions"
SETTLES = 3.0
"""Seconds before each turn, in which what ran before ends and what is to run begins."""


class Turn(NamedTuple):
    """A measurement: latencies in s, to the first token and to the end, and what ran beside."""

    kind: str
    first: list[float]
    whole: list[float]
    beside: float
    """Requests beside them that were answered, a second."""


def body(tokens: int, *, stream: bool) -> bytes:
    """Return what is asked."""
    said = [{"role": "user", "content": "Tell of the sea."}]
    asked = {"model": MODEL, "messages": said, "max_tokens": tokens, "ignore_eos": True}
    return json.dumps({**asked, "stream": stream}).encode()


async def clients(url: str, rate: float, seconds: float, tokens: int, seed: int) -> list[Answer]:
    """Ask at random moments, `rate` times a second, and wait for all answers. Raise Failed."""
    chance = random.Random(seed)
    wire = body(tokens, stream=True)
    asked: list[asyncio.Task[Answer]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked.append(asyncio.create_task(ask(f"{url}{_PATH}", wire)))
        await asyncio.sleep(chance.expovariate(rate))
    answers = await asyncio.gather(*asked)
    bad = [each for each in answers if each.status != 200 or not each.whole]
    if bad:
        raise Failed(f"{len(bad)} of {len(answers)} failed: {bad[0].status} {bad[0].body[:200]!r}")
    return answers


class Batch:
    """A batch of more lines than a turn can answer, requested and cancelled as a client does it."""

    def __init__(self, url: str, lines: int, tokens: int) -> None:
        asked = body(tokens, stream=False).decode()
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        whole = "\n".join(
            f'{{"custom_id":"{n}","method":"POST","url":"{_PATH}","body":{asked}}}'
            for n in range(lines)
        )
        self._file = self._client.files.create(file=whole.encode(), purpose="batch").id
        self._running = ""

    def begin(self) -> None:
        """Request it."""
        batch = self._client.batches.create(
            input_file_id=self._file, endpoint=_PATH, completion_window="24h"
        )
        self._running = batch.id

    def end(self) -> int:
        """Cancel it; return how many lines were answered. Raise Failed if it is over already."""
        if self._client.batches.retrieve(self._running).status != "in_progress":
            raise Failed("the batch did not last for its turn: give --lines")
        batch = self._client.batches.cancel(self._running)
        while batch.status != "cancelled":
            time.sleep(0.1)
            batch = self._client.batches.retrieve(self._running)
        assert batch.request_counts is not None
        return batch.request_counts.completed


class Beside:
    """What runs beside the clients, but for a batch: a process of its own."""

    def __init__(self, cluster: Cluster, copy: Path, count: int, tokens: int) -> None:
        asked = body(tokens, stream=False).decode()
        line = [sys.executable, "-m", "benchmarks.slack_source", cluster.nats, str(count), asked]
        pipe = subprocess.PIPE
        environ = {**environment(copy), "PYTHONPATH": f"{copy}:{REPOSITORY}"}
        self._process = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, env=environ)
        self._read()

    def turn_to(self, kind: str) -> int:
        """Change what runs; return how many were answered since the last change. Raise Failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        return int(self._read())

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)

    def _read(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise Failed("the source of slack has ended")
        return said


def measure(cluster: Cluster, beside: Beside, options: argparse.Namespace) -> list[Turn]:
    """Measure all kinds in turns, in another order each round. Raise Failed."""
    turns = []
    batch = Batch(cluster.gateways[0], options.lines, options.beside_tokens)
    for number in range(options.rounds):
        first = number % len(options.kinds)
        for kind in (*options.kinds[first:], *options.kinds[:first]):
            if kind == "batch":
                batch.begin()
            else:
                beside.turn_to(kind)
            time.sleep(SETTLES)
            began = time.monotonic()
            load = clients(
                cluster.gateways[0], options.rate, options.seconds, options.tokens, number
            )
            answers = run(load)
            lasted = time.monotonic() - began + SETTLES
            answered = batch.end() if kind == "batch" else beside.turn_to("none")
            first_tokens = [each.first - each.asked for each in answers]
            whole = [each.news - each.asked for each in answers]
            turns.append(Turn(kind, first_tokens, whole, answered / lasted))
            print(f"round {number + 1}: {_line(turns[-1])}", file=sys.stderr)
    return turns


def _line(turn: Turn) -> str:
    told = ", ".join(
        f"p{part * 100:.0f} {percentile(turn.whole, part):.3f}" for part in (0.5, 0.99)
    )
    return f"{turn.kind}: {len(turn.whole)} streams, {told} s; beside {turn.beside:.2f}/s"


def table(turns: Sequence[Turn], kinds: Sequence[str]) -> str:
    """Write the figures, and their ratios to those of the same round with nothing beside."""
    lines = [
        "| figure | beside | s, median of all | ratio, median (min to max) | beside, per s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, which in (("first token", "first"), ("whole answer", "whole")):
        for part in (0.5, 0.99):
            of = {
                kind: [percentile(getattr(t, which), part) for t in turns if t.kind == kind]
                for kind in kinds
            }
            pooled = {
                kind: percentile(
                    [x for t in turns if t.kind == kind for x in getattr(t, which)], part
                )
                for kind in kinds
            }
            for kind in kinds:
                ratios = [each / none for each, none in zip(of[kind], of["none"], strict=True)]
                middle = statistics.median(ratios)
                spread = f"{middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                rate = statistics.median(t.beside for t in turns if t.kind == kind)
                lines.append(
                    f"| {name}, p{part * 100:.0f} | {kind} | {pooled[kind]:.3f} | {spread}, "
                    f"all {pooled[kind] / pooled['none']:.3f} | {rate:.2f} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Measure and print. Raise Failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.slack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn [20]")
    parser.add_argument("--rate", type=float, default=8.0, help="clients a second [8]")
    parser.add_argument("--tokens", type=int, default=20, help="of each answer [20]")
    parser.add_argument("--beside", type=int, default=64, help="requests at a time [64]")
    parser.add_argument("--beside-tokens", type=int, default=100, help="of each of them [100]")
    parser.add_argument("--lines", type=int, default=2000, help="of the batch [2000]")
    parser.add_argument("--token", type=float, default=0.05, help="seconds [0.05]")
    parser.add_argument("--crowding", type=float, default=0.01, help="part of a token [0.01]")
    parser.add_argument("--slots", type=int, default=256, help="the engine's [256]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--real", action="store_true", help="on vLLM")
    parser.add_argument("--json", type=Path, help="write all figures here")
    folder_option(parser)
    options = parser.parse_args()
    engine = list(SIMULATED)
    engine += ["--simulate-first-token", str(options.token), "--simulate-token", str(options.token)]
    engine += ["--simulate-crowding", str(options.token * options.crowding)]
    fields: dict[str, object] = {"source": MODEL, "memory": "1GiB"}
    limits: dict[str, object] = {"max-num-seqs": options.slots}
    if options.real:
        engine, fields = [], real_model()
        known = fields["options"]
        assert isinstance(known, dict)
        limits = {**known, **limits}
    wanted = Wanted(MODEL, {**fields, "options": limits}, 600)
    facts = context()
    with session("slack", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        with start(folder / "cluster", copy, [wanted], engine=engine, routers=1) as cluster:
            beside = Beside(cluster, copy, options.beside, options.beside_tokens)
            try:
                turns = measure(cluster, beside, options)
            finally:
                beside.end()
    print(headline(facts) + "\n\n" + table(turns, options.kinds))
    keep(options.json, facts, turns=[turn._asdict() for turn in turns])


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from error
