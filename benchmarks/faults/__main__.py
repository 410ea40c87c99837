"""What clients see while engines, routers, gateways and NATS are killed under them.

`python -m benchmarks.faults` from the repository's root. Everything is started here: two gateways,
two routers, one node with two replicas of a chat model, and a nats-server; what is killed is
started again by `nebula up`. Each text is compared with that of an undisturbed run. The exit code
is 1 where a request can't be accounted for, or a text differs by more than vLLM's numerics.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cluster import Cluster, Wanted, start, two_replicas
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.ways import MODEL, REPOSITORY, SIMULATED, freeze
from benchmarks.session import context, folder_option, headline, keep, session

from . import accounts, cuts
from .accounts import Account, Texts
from .cuts import Check
from .waves import Done, Kill, Wave, requests, ride

_THINGS = ("a lighthouse", "two brothers", "the winter", "a small town", "an old clock", "the sea")

TOKEN = 0.03  # seconds between two tokens of a simulated engine

FAULTS = {
    "engine": ("engine",),
    "router": ("router",),
    "gateway": ("gateway",),
    "nats": ("nats-server",),
    "node": ("node",),
    "all": ("engine", "router", "gateway", "nats-server"),
}


class Setting(NamedTuple):
    """What differs between engines: how they start, what they are asked, how long that takes.

    `body` makes the request of a number for so many tokens, as a stream or not. `real`: texts may
    differ by the engine's numerics.
    """

    model: Wanted
    engine: Sequence[str]
    streams: int
    tokens: int
    spread: float
    silence: float
    body: Callable[[int, int, bool], bytes]
    real: bool


def simulated(streams: int) -> Setting:
    """Give the setting with simulated engines, for which some requests have to wait in line."""
    fields = {
        "source": MODEL,
        "memory": "256MiB",
        "replicas": 2,
        "max_in_flight": max(4, streams * 3 // 8),
    }
    engine = [*SIMULATED, "--simulate-token", str(TOKEN)]
    return Setting(Wanted(MODEL, fields), engine, streams, 200, 4.5, 60.0, _words, False)


def vllm(streams: int) -> Setting:
    """Give the setting with two vLLM on CPUs. Raises Failed where it is not installed."""
    wanted = Wanted(MODEL, two_replicas(), patience=900)
    return Setting(wanted, (), streams, 120, 5.0, 300.0, _stories, True)


def _stories(number: int, tokens: int, stream: bool) -> bytes:
    what = _THINGS[number % len(_THINGS)]
    return _chat(f"Tell me a long story about {what}. It is number {number}.", tokens, stream)


def _words(number: int, tokens: int, stream: bool) -> bytes:
    # The engine repeats the words of the prompt. No word comes twice, so that none can be missing
    # or be there twice and nobody sees it.
    return _chat(" ".join(f"r{number}w{word}" for word in range(tokens)), tokens, stream)


def _chat(said: str, tokens: int, stream: bool) -> bytes:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": said}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }
    return json.dumps(body).encode()


def waves(names: Sequence[str], setting: Setting) -> list[Wave]:
    """Plan one wave for each fault; one in which all come has longer answers."""
    planned = []
    for number, name in enumerate(names):
        faults = FAULTS[name]
        # A router last of all: by then requests wait in its line.
        first = 0.15 if len(faults) > 1 else 0.4 if "router" in faults else 0.3
        kills = [Kill(what, 0, first + 0.2 * place) for place, what in enumerate(faults)]
        # Of engines one after the other, so that none is killed thrice in a row.
        kills = [kill._replace(number=number) if kill.what == "engine" else kill for kill in kills]
        long = len(faults)
        title = "all of them, one after the other" if long > 1 else faults[0]
        planned.append(Wave(title, setting.tokens * long, kills, setting.spread * long))
    return planned


class Result(NamedTuple):
    """A wave, its account, and of its differing texts whether they are as one vLLM gives them."""

    done: Done
    account: Account
    checks: list[Check]

    @property
    def good(self) -> bool:
        """Whether everything is accounted for and no text is wrong."""
        if not self.checks:
            return self.account.good
        return self.account.accounted and all(check.good for check in self.checks)


def measure(cluster: Cluster, setting: Setting, planned: Sequence[Wave]) -> list[Result]:
    """Ride all waves, each length of answers first undisturbed. Raises Failed."""
    undisturbed: dict[int, Texts] = {}
    events: dict[int, int] = {}
    results = []
    for wave in planned:
        tokens = wave.tokens

        def body(number: int, stream: bool, tokens: int = tokens) -> bytes:
            return setting.body(number, tokens, stream)

        asked = requests(setting.streams, body)
        if tokens not in undisturbed:
            quiet = Wave(f"undisturbed, {tokens} tokens", tokens, (), wave.spread)
            done = ride(quiet, asked, cluster, setting.silence)
            _say(accounts.kills(done))
            undisturbed[tokens] = accounts.texts(done)
            events[tokens] = sum(one.progress for one in done.outcomes if one.asked.stream)
            if len(undisturbed[tokens]) < len(asked):
                told = accounts.told(accounts.account(done, undisturbed[tokens], {}))
                raise Failed(f"requests fail where nothing is killed: {told}")
        asked = requests(setting.streams, body)
        done = ride(wave._replace(events=events[tokens]), asked, cluster, setting.silence)
        again = accounts.attempts(cluster.logs("gateway"))
        account = accounts.account(done, undisturbed[tokens], again, words=not setting.real)
        _say("\n".join((accounts.kills(done), accounts.table([account]), accounts.told(account))))
        cluster.settle()
        checks = []
        if setting.real and account.differing:
            engine = next(iter(cluster.engine_urls().values()))
            checks = cuts.check(account.differing, cluster.nats, MODEL, engine)
            _say(cuts.told(checks))
        results.append(Result(done, account, checks))
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--engine", choices=["simulated", "vllm"], default="simulated")
    parser.add_argument("--streams", type=int, help="requests of each wave [200, of vLLM 16]")
    parser.add_argument("--tokens", type=int, help="of each answer [200, of vLLM 120]")
    parser.add_argument(
        "--faults",
        type=lambda text: text.split(","),
        default=["engine", "router", "gateway", "nats", "all"],
        help=f"of {', '.join(FAULTS)}, one wave each [all but node]",
    )
    parser.add_argument("--json", type=Path, help="write what became of each request here")
    folder_option(parser)
    options = parser.parse_args()
    for name in options.faults:
        if name not in FAULTS:
            parser.error(f"--faults: there is no {name!r}")
    return options


def main() -> int:
    """Start, disturb, end and print; give the exit code. Raises Failed."""
    options = parse()
    facts = context()
    if options.engine == "vllm":
        setting = vllm(options.streams or 16)
    else:
        setting = simulated(options.streams or 200)
    setting = setting._replace(tokens=options.tokens or setting.tokens)
    with session("faults", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        arguments = ("--restart-limit", "1000", "--restart-pause", "0.5")
        with start(
            folder / "cluster",
            copy,
            [setting.model],
            engine=setting.engine,
            arguments=arguments,
        ) as cluster:
            results = measure(cluster, setting, waves(options.faults, setting))
    everything = accounts.total([result.account for result in results])
    print("\n" + headline(facts))
    print(f"{options.engine} engine, {setting.streams} requests in each wave\n")
    print(accounts.table([*(result.account for result in results), everything]))
    for done, account, checks in results:
        parts = (accounts.kills(done), accounts.told(account), cuts.told(checks))
        print("\n" + "\n".join(part for part in parts if part))
    told = [
        accounts.raw(done, account) | {"checks": [check._asdict() for check in checks]}
        for done, account, checks in results
    ]
    keep(options.json, facts, waves=told)
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Failed as error:
        raise SystemExit(str(error)) from error
