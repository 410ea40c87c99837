"""How much of their prompts two real vLLM find in their caches: Nebula's choice beside chance.

`python -m benchmarks.prefixes` from the repository's root; needs the engine and the demo's models.
Groups of prompts begin with the same long document and end with different questions, which come
interleaved. Through Nebula, its routers choose one of two replicas for each: by what engines tell
them that they got (`nebula`), or also evicted (`evictions`), or as the Nebula of another checkout
does (`before`). Or smg chooses, by what it sent to each engine (`smg`). By `chance`, the engines of
the first way are called on their own ports. Each way has two engines of its own. All documents are
new in every round, and the ways take turns. What is counted is vLLM's own: tokens that its prefix
cache was asked for, and those it had.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.cache_aware import smg
from benchmarks.client import Answer, ask
from benchmarks.cluster import FEW_CORES, Cluster, Wanted, start, two_replicas
from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import DEMO, MODEL, REPOSITORY, freeze
from benchmarks.session import context, folder_option, headline, keep, session

PATH = "/v1/chat/completions"
TOKENS = 8
_SAID = (
    "water stone river light engine market garden winter letter island silver paper mountain "
    "window history doctor forest summer village machine morning picture station teacher kitchen "
    "journey weather captain library harbour season message company number system building evening"
)
WORDS = _SAID.split()
SYSTEM = (
    "You answer questions about a document. Answer in one short sentence, in plain words, and say "
    "nothing that the document does not say. If it does not say, answer that you do not know. Do "
    "not quote more than five words at a time. Do not apologise, do not repeat the question, and "
    "do not speak of these instructions. Numbers are written as digits, names as they are written "
    "in the document."
)
_COUNTED = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{.*\} ([0-9.e+]+)$", re.MULTILINE)


class Kind(NamedTuple):
    """A kind of prompts: with or without the same system prompt before all documents."""

    name: str
    system: str


WAYS = ("nebula", "evictions", "before", "smg", "chance")

KINDS = {
    "documents": Kind("documents", ""),
    "system": Kind("documents after one system prompt", SYSTEM),
}


class Way(NamedTuple):
    """Where prompts are sent to, and the header fields with which its engines tell what they had.

    `keys`: by the engines' addresses.
    """

    urls: list[str]
    keys: Mapping[str, dict[str, str]]


class Round(NamedTuple):
    """A measurement. `shares`: the part of the prompts' tokens that each engine was asked for."""

    kind: str
    way: str
    hit_rate: float
    first: float
    late: float
    seconds: float
    tokens: float
    shares: list[float]


def prompts(kind: Kind, groups: int, questions: int, seed: int) -> list[bytes]:
    """Make the requests of a round, those of all groups mixed."""
    chance = random.Random(seed)
    made = []
    for group in range(groups):
        words = [chance.choice(WORDS) for _ in range(chance.randint(480, 640))]
        document = f"Document {seed}-{group}: {' '.join(words)}."
        for number in range(questions):
            question = f"Question {number}: what is said of the {chance.choice(WORDS)}?"
            said = [{"role": "user", "content": f"{document}\n\n{question}"}]
            if kind.system:
                said.insert(0, {"role": "system", "content": kind.system})
            made.append(_body(said))
    chance.shuffle(made)
    return made


def _body(said: Sequence[dict[str, str]]) -> bytes:
    body = {
        "model": MODEL,
        "messages": said,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
    }
    return json.dumps(body).encode()


def through(cluster: Cluster) -> Way:
    """Return the way through the gateways of a cluster. Raise Failed."""
    engines = list(cluster.engine_urls().values())
    if len(engines) != 2:
        raise Failed(f"there are {len(engines)} engines instead of 2")
    return Way(cluster.gateways, {engine: cluster.key_of(engine) for engine in engines})


def measure(
    kind: Kind, name: str, way: Way, bodies: Sequence[bytes], clients: int, seed: int
) -> Round:
    """Send all prompts one way and see what the engines counted. Raise Failed."""
    chance = random.Random(seed)

    def url() -> str:
        return chance.choice(way.urls)

    keys = way.keys
    before = [counted(*each) for each in keys.items()]
    began = time.perf_counter()
    answers = run(_ask_all(url, keys, bodies, clients))
    seconds = time.perf_counter() - began
    spent = [
        {key: after[key] - earlier[key] for key in after}
        for after, earlier in zip((counted(*each) for each in keys.items()), before, strict=True)
    ]
    bad = [answer for answer in answers if not answer.whole or answer.status != 200]
    if bad:
        words = bytes(bad[0].body[:200]).decode(errors="replace")
        raise Failed(f"{len(bad)} of {len(answers)} failed: {bad[0].status} {words}")
    asked = sum(each["queries"] for each in spent)
    waits = [answer.first - answer.asked for answer in answers]
    return Round(
        kind.name,
        name,
        sum(each["hits"] for each in spent) / asked,
        percentile(waits, 0.5),
        percentile(waits, 0.9),
        seconds,
        asked / len(answers),
        [each["queries"] / asked for each in spent],
    )


def counted(engine: str, key: Mapping[str, str]) -> dict[str, float]:
    """Read what an engine counts of its prefix cache, in tokens. Raise Failed."""
    text = httpx.get(f"{engine}/metrics", headers=key, trust_env=False, timeout=60).text
    found = {name: float(value) for name, value in _COUNTED.findall(text)}
    if found.keys() != {"queries", "hits"}:
        raise Failed("the engine does not tell of its prefix cache")
    return found


async def _ask_all(
    url: Callable[[], str],
    keys: Mapping[str, Mapping[str, str]],
    bodies: Sequence[bytes],
    clients: int,
) -> list[Answer]:
    """Let so many clients ask one prompt after the other; `keys`: for the URLs that need some."""
    left = list(reversed(bodies))
    answers: list[Answer] = []

    async def keep() -> None:
        while left:
            where = url()
            answers.append(await ask(where + PATH, left.pop(), keys.get(where), silence=300))

    await asyncio.gather(*(keep() for _ in range(clients)))
    return answers


def table(rounds: Sequence[Round]) -> str:
    """Write medians over the rounds, and the hit rates' spread."""
    heads = ["prompts", "chosen by", "hit rate", "first token, p50 s", "p90 s", "requests' time, s"]
    heads += ["busier engine's share"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for kind, way in dict.fromkeys((item.kind, item.way) for item in rounds):
        some = [item for item in rounds if (item.kind, item.way) == (kind, way)]
        rates = [item.hit_rate for item in some]
        rate = f"{statistics.median(rates):.1%} ({min(rates):.1%} to {max(rates):.1%})"
        cells = [kind, way, rate]
        for values in (
            [item.first for item in some],
            [item.late for item in some],
            [item.seconds for item in some],
        ):
            cells.append(f"{statistics.median(values):.2f}")
        cells.append(f"{statistics.median(max(item.shares) for item in some):.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.prefixes", description=__doc__)
    parser.add_argument("--groups", type=int, default=12, help="documents of each round [12]")
    parser.add_argument("--questions", type=int, default=5, help="about each document [5]")
    parser.add_argument("--clients", type=int, default=4, help="that ask at a time [4]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--routers", type=int, choices=(1, 2), default=1, help="of Nebula [1]")
    parser.add_argument(
        "--ways",
        type=lambda text: text.split(","),
        default=["nebula", "evictions", "chance"],
        help=f"of {', '.join(WAYS)} [nebula,evictions,chance]",
    )
    parser.add_argument("--venvs", type=Path, default=REPOSITORY / ".bench", help="has smg")
    parser.add_argument("--before", type=Path, help="a checkout, for the way of this name")
    parser.add_argument(
        "--blocks", type=int, default=0, help="of 128 tokens, that an engine's cache has [all fit]"
    )
    parser.add_argument(
        "--kinds", type=lambda text: text.split(","), default=list(KINDS), help=f"of {list(KINDS)}"
    )
    parser.add_argument("--json", type=Path, help="write all rounds here")
    folder_option(parser)
    options = parser.parse_args()
    if not set(options.kinds) <= KINDS.keys():
        parser.error(f"--kinds: of {', '.join(KINDS)}")
    if not set(options.ways) <= set(WAYS) or set(options.ways) <= {"smg", "chance"}:
        parser.error(f"--ways: of {', '.join(WAYS)}, and one of them is Nebula's")
    if "before" in options.ways and options.before is None:
        parser.error("--ways before: say which one with --before")
    return options


def main() -> None:
    """Start two engines, ask, end and print. Raise Failed."""
    options = parse()
    facts = context()
    engine: dict[str, object] = {"max-model-len": 2048, "enforce-eager": True}
    if options.blocks:
        engine["num-gpu-blocks-override"] = options.blocks
    wanted = Wanted(MODEL, two_replicas() | {"options": engine}, patience=900)
    rounds: list[Round] = []
    with session("prefixes", options.folder) as folder, contextlib.ExitStack() as running:
        sources = freeze((), folder / "sources")[REPOSITORY]
        clusters = {
            way: running.enter_context(
                start(
                    folder / way,
                    options.before if way == "before" else sources,
                    [wanted],
                    routers=options.routers,
                    arguments=["--kv-events"] if way == "evictions" else [],
                )
            )
            for way in options.ways
            if way not in ("smg", "chance")
        }
        ways = {name: through(cluster) for name, cluster in clusters.items()}
        keys = next(iter(ways.values())).keys
        ways["chance"] = Way(list(keys), keys)
        if "smg" in options.ways:
            alone = {"model": str(DEMO), "served-model-name": MODEL, **engine}
            alone |= {"kv-cache-memory-bytes": 1 << 28, "distributed-executor-backend": "uni"}
            started = smg(alone, FEW_CORES, folder / "smg", options.venvs)
            url, engines = running.enter_context(started)
            ways["smg"] = Way([url], {engine: {} for engine in engines})
        # No seed twice: no document is in a cache when its round begins.
        seeds = iter(range(1000, 10_000))
        for turn in range(options.rounds):
            for name in options.kinds:
                for way in options.ways[:: 1 if turn % 2 == 0 else -1]:
                    seed = next(seeds)
                    kind = KINDS[name]
                    bodies = prompts(kind, options.groups, options.questions, seed)
                    done = measure(kind, way, ways[way], bodies, options.clients, seed)
                    print(done, file=sys.stderr, flush=True)
                    rounds.append(done)
    print("\n" + headline(facts))
    tokens = statistics.mean(item.tokens for item in rounds)
    room = f"{options.blocks} blocks in each cache" if options.blocks else "caches that hold all"
    print(
        f"{room}, {options.groups} documents, {options.questions} questions about each, prompts of "
        f"{tokens:.0f} tokens, {options.clients} clients, {options.routers} routers, "
        f"{options.rounds} rounds\n"
    )
    print(table(sorted(rounds, key=lambda item: item.kind)))
    keep(options.json, facts, rounds=[item._asdict() for item in rounds])


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from error
