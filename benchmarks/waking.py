"""How long a model that sleeps needs to its first token, on real vLLM, and where that time goes.

`python -m benchmarks.waking` from the repository's root; needs the engine and the demo's models. A
model is loaded on request and unloaded after some seconds without a request. It is asked while it
sleeps; the events that the log got meanwhile, by the log's own clock, cut the time into its parts.
Then it is asked while it is awake, and awaited until it sleeps again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.client import Answer, ask
from benchmarks.cluster import Cluster, start
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import MODEL, REPOSITORY, freeze, real_model
from benchmarks.session import context, folder_option, headline, keep, session

PATIENCE = 300.0
BODY = json.dumps(
    {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 16,
        "stream": True,
    }
).encode()


class Round(NamedTuple):
    """A waking. `parts`: what the log said, and the seconds since what it said before.

    The last part is the first token's. `warm`: seconds to the first token when it is awake;
    `asleep`: from the last answer until it was unloaded.
    """

    parts: list[tuple[str, float]]
    warm: float
    asleep: float

    @property
    def first(self) -> float:
        """Seconds from the request to its first token."""
        return sum(seconds for _, seconds in self.parts)


def measure(cluster: Cluster) -> Round:
    """Ask once while it sleeps and once while it is awake; wait until it sleeps. Raise Failed."""
    url = cluster.gateways[0]
    after = _events(url, 0)[-1]["seq"]
    asked = time.time()
    answer = _asked(url)
    first = asked + answer.first - answer.asked
    said = [
        (each["type"], datetime.fromisoformat(each["time"]).timestamp())
        for each in _events(url, after)
    ]
    parts = []
    before = asked
    for what, at in [*(each for each in said if each[1] < first), ("first token", first)]:
        parts.append((what, at - before))
        before = at
    again = _asked(url)
    ended = time.monotonic()
    while httpx.get(f"{url}/admin/replicas", trust_env=False, timeout=20).json():
        if time.monotonic() - ended > PATIENCE:
            raise Failed("it does not fall asleep")
        time.sleep(0.1)
    return Round(parts, again.first - again.asked, time.monotonic() - ended)


def _asked(url: str) -> Answer:
    answer = run(ask(f"{url}/v1/chat/completions", BODY, silence=PATIENCE))
    if answer.status != 200 or not answer.whole or not answer.first:
        raise Failed(f"not answered: {answer.status} {bytes(answer.body[-200:])!r}")
    return answer


def _events(url: str, after: int) -> list[dict[str, Any]]:
    asked = {"after": after, "limit": 1000}
    page = httpx.get(f"{url}/admin/events", params=asked, trust_env=False, timeout=20).json()
    found: list[dict[str, Any]] = page["events"]
    return found


def table(rounds: Sequence[Round]) -> str:
    """Write the medians of all parts, with their spread."""
    lines = ["| until | s, median (min to max) |", "| --- | --- |"]
    names = [name for name, _ in rounds[0].parts]
    if any([name for name, _ in each.parts] != names for each in rounds):
        names = []  # the log told it in another order each time
    for number, name in enumerate(names):
        lines.append(f"| {name} | {_spread([each.parts[number][1] for each in rounds])} |")
    lines.append(f"| **in all** | {_spread([each.first for each in rounds])} |")
    lines.append(f"| first token when awake | {_spread([each.warm for each in rounds])} |")
    lines.append(f"| asleep after the last answer | {_spread([each.asleep for each in rounds])} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Start, measure, print. Raise Failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.waking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds until it sleeps [10]")
    parser.add_argument("--json", type=Path, help="write all rounds here")
    folder_option(parser)
    options = parser.parse_args()
    facts = context()
    wish = {"id": MODEL, **real_model(), "on_request": True, "idle_after": options.idle}
    rounds = []
    with session("waking", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        patience = ("--load-timeout", str(PATIENCE))
        with start(folder / "cluster", copy, [], arguments=patience, routers=1) as cluster:
            url = f"{cluster.gateways[0]}/admin/models"
            httpx.post(url, json=wish, trust_env=False, timeout=20).raise_for_status()
            for _ in range(options.rounds):
                rounds.append(measure(cluster))
                print(rounds[-1], flush=True)
    print("\n" + headline(facts) + "\n")
    print(table(rounds))
    keep(options.json, facts, rounds=[item._asdict() for item in rounds])


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from error
