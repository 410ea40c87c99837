"""What clients see while a cluster is killed, filled, stopped and cut apart under them.

`python -m benchmarks.faults` from the repository's root. Everything is started here: two gateways,
two routers, one node with two replicas of a chat model, and a nats-server, kept running by
`nebula up`; for `--faults host` and its like six hosts in network namespaces. Each text is compared
with that of an undisturbed run, and every change that was acknowledged is looked for in the log.
The exit code is 1 where a request can't be accounted for, a change is lost, or a text differs by
more than vLLM's numerics.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.cluster import Wanted, start, two_replicas
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import MODEL, REPOSITORY, SIMULATED, freeze
from benchmarks.session import context, folder_option, headline, keep, session

from . import accounts, appends, cuts, hosts
from .accounts import Account, Texts
from .appends import Kept
from .cuts import Check
from .troubles import Standing, small_disk, stand_in_clock
from .waves import Done, Place, Step, Wave, requests, ride

_THINGS = ("a lighthouse", "two brothers", "the winter", "a small town", "an old clock", "the sea")

TOKEN = 0.03  # seconds between two tokens of a simulated engine

KILLS = {
    "engine": ("engine",),
    "router": ("router",),
    "gateway": ("gateway",),
    "nats": ("nats-server",),
    "node": ("node",),
    "all": ("engine", "router", "gateway", "nats-server"),
}

TROUBLES = {
    "stall": ("an engine stands still", [Step("stall", 0, 0.15)]),
    "pause": ("everything paused for 20 s", [Step("pause", 0, 0.3, 20.0)]),
    "streams": (
        "streams in memory deleted",
        [Step("stream", number, 0.2 + 0.2 * number) for number in range(3)],
    ),
    "disk": (
        "the log's disk full for 30 s, an engine killed",
        [Step("disk", 0, 0.15, 30.0), Step("engine", 0, 0.3)],
    ),
    "clock": (
        "clock stepped by an hour both ways",
        [
            Step("node", 0, 0.1),  # so that engines are adopted: their identity is looked up
            Step("clock", 3600, 0.3),
            Step("clock", -3600, 0.5),
            Step("clock", 0, 0.8),
        ],
    ),
    "versions": (
        "two versions, router and gateway killed",
        [Step("router", 0, 0.2), Step("gateway", 0, 0.5)],
    ),
}

HOSTS = {
    "host": ("a host cut off for 30 s", [Step("host", 1, 0.15, 30.0)]),
    "leader": ("the log's leader cut off for 30 s", [Step("leader", 0, 0.15, 30.0)]),
    "path": ("the path between two hosts cut for 60 s", [Step("path", 0, 0.1, 60.0)]),
    "minority": ("two of three hosts cut off for 25 s", [Step("minority", 0, 0.2, 25.0)]),
    "node-host": ("a node's host cut off for 20 s", [Step("node", 0, 0.2, 20.0)]),
}

FAULTS = [*KILLS, *TROUBLES, *HOSTS]

HANG = 40.0  # seconds without news after which a client leaves a gateway that may be cut off

STALL_LIMIT = 20.0  # seconds after which a node ends an engine that stands still, here


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
    """Return the setting with simulated engines, for which some requests have to wait in line."""
    fields = {
        "source": MODEL,
        "memory": "256MiB",
        "replicas": 2,
        "max_in_flight": max(4, streams * 3 // 8),
    }
    engine = [*SIMULATED, "--simulate-token", str(TOKEN)]
    return Setting(Wanted(MODEL, fields), engine, streams, 200, 4.5, 60.0, _words, False)


def vllm(streams: int) -> Setting:
    """Return the setting with two vLLM on CPUs. Raise Failed where it is not installed."""
    wanted = Wanted(MODEL, two_replicas(), patience=900)
    return Setting(wanted, (), streams, 120, 5.0, 300.0, _stories, True)


def _stories(number: int, tokens: int, stream: bool) -> bytes:
    what = _THINGS[number % len(_THINGS)]
    return _chat(f"Tell me a long story about {what}. It is number {number}.", tokens, stream)


def _words(number: int, tokens: int, stream: bool) -> bytes:
    # The engine repeats the words of the prompt. No word comes twice, so that a missing or repeated
    # word is noticed.
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
    return [
        _killing(name, setting) if name in KILLS else _troubled(name, setting) for name in names
    ]


def _killing(name: str, setting: Setting) -> Wave:
    faults = KILLS[name]
    # A router last of all: by then requests wait in its line.
    first = 0.15 if len(faults) > 1 else 0.4 if "router" in faults else 0.3
    # Of engines one after the other, so that none is killed thrice in a row.
    number = list(KILLS).index(name)
    steps = [
        Step(what, number if what == "engine" else 0, first + 0.2 * place)
        for place, what in enumerate(faults)
    ]
    long = len(faults)
    title = "all of them, one after the other" if long > 1 else faults[0]
    wave = Wave(title, setting.tokens * long, steps, setting.spread * long)
    return wave._replace(silence=setting.silence)


def _troubled(name: str, setting: Setting) -> Wave:
    """Plan a wave whose requests go on to arrive until the trouble is over, and longer."""
    title, steps = (TROUBLES | HOSTS)[name]
    lasts = sum(step.lasts for step in steps)
    spread = max(setting.spread, lasts * 1.5, 20.0 if name == "clock" else 0.0)
    silence = setting.silence + (20.0 if name == "pause" else 0.0)
    return Wave(title, setting.tokens, steps, spread, silence=silence)


class Result(NamedTuple):
    """A wave, its account, its changes, and whether differing texts are as one vLLM's."""

    done: Done
    account: Account
    kept: Kept
    checks: list[Check]

    @property
    def good(self) -> bool:
        """Whether everything is accounted for and no text is wrong."""
        if self.kept.lost:
            return False
        if not self.checks:
            return self.account.good
        return self.account.accounted and all(check.good for check in self.checks)


class Tested(Place, Protocol):
    """A cluster under test: what it says of itself, and how to wait until it serves again."""

    nats: str

    def logs(self, name: str) -> list[str]:
        """Return all that processes of a name have written."""
        ...

    def settle(self) -> None:
        """Wait until everything serves again. Raise Failed."""
        ...


def measure(
    cluster: Tested,
    setting: Setting,
    planned: Sequence[Wave],
    engine: Callable[[], str] | None = None,
) -> list[Result]:
    """Ride all waves, each length of answers first undisturbed. Raise Failed.

    `engine` returns the address of an engine that differing texts of real vLLM are checked with.
    """
    undisturbed: dict[int, Texts] = {}
    events: dict[int, int] = {}
    results = []
    for wave in planned:
        tokens = wave.tokens

        def body(number: int, stream: bool, tokens: int = tokens) -> bytes:
            return setting.body(number, tokens, stream)

        asked = requests(setting.streams, body)
        if tokens not in undisturbed:
            title = f"undisturbed, {tokens} tokens"
            quiet = Wave(title, tokens, (), min(wave.spread, 10.0), silence=setting.silence)
            done = ride(quiet, asked, cluster)
            _say(accounts.kills(done))
            undisturbed[tokens] = accounts.texts(done)
            events[tokens] = sum(one.progress for one in done.outcomes if one.asked.stream)
            if len(undisturbed[tokens]) < len(asked):
                told = accounts.told(accounts.account(done, undisturbed[tokens], {}))
                raise Failed(f"requests fail where nothing is killed: {told}")
        asked = requests(setting.streams, body)
        done = ride(wave._replace(events=events[tokens]), asked, cluster)
        again = accounts.attempts(cluster.logs("gateway"))
        account = accounts.account(done, undisturbed[tokens], again, words=not setting.real)
        cluster.settle()
        kept = run(appends.kept(cluster.nats, done.appends))
        told_ = (accounts.kills(done), accounts.table([account]), accounts.told(account))
        _say("\n".join((*told_, appends.told(kept))))
        checks = []
        if setting.real and account.differing and engine is not None:
            checks = cuts.check(account.differing, cluster.nats, MODEL, engine())
            _say(cuts.told(checks))
        results.append(Result(done, account, kept, checks))
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
        help=f"of {', '.join(FAULTS)}, one wave each [engine, router, gateway, nats, all]",
    )
    parser.add_argument(
        "--other", type=Path, help="for `versions`: a checkout of another version of Nebula"
    )
    parser.add_argument("--json", type=Path, help="write what became of each request here")
    folder_option(parser)
    options = parser.parse_args()
    for name in options.faults:
        if name not in FAULTS:
            parser.error(f"--faults: there is no {name!r}")
    if ("versions" in options.faults) != (options.other is not None):
        parser.error("--other FOLDER and --faults versions belong together")
    return options


def main() -> int:
    """Start, disturb, end and print; give the exit code. Raise Failed."""
    options = parse()
    facts = context()
    if options.engine == "vllm":
        setting = vllm(options.streams or 16)
    else:
        setting = simulated(options.streams or 200)
    setting = setting._replace(tokens=options.tokens or setting.tokens)
    with session("faults", options.folder) as folder:
        sources = freeze([f"nebula@{options.other}"] if options.other else (), folder / "sources")
        results: list[Result] = []
        for group in ([*KILLS, "stall", "pause", "streams"], ["disk"], ["clock"], ["versions"]):
            names = [name for name in options.faults if name in group]
            if names:
                other = sources[options.other.resolve()] if names == ["versions"] else None
                results += _standing(folder, sources[REPOSITORY], other, setting, names)
        names = [name for name in options.faults if name in HOSTS]
        if names:
            results += _cut_apart(folder, sources[REPOSITORY], setting, names)
    everything = accounts.total([result.account for result in results])
    print("\n" + headline(facts))
    print(f"{options.engine} engine, {setting.streams} requests in each wave\n")
    print(accounts.table([*(result.account for result in results), everything]))
    for done, account, kept, checks in results:
        parts = [accounts.kills(done), accounts.told(account), appends.told(kept)]
        parts.append(cuts.told(checks))
        print("\n" + "\n".join(part for part in parts if part))
    told = [
        accounts.raw(done, account)
        | {"checks": [check._asdict() for check in checks], "kept": kept._asdict()}
        for done, account, kept, checks in results
    ]
    keep(options.json, facts, waves=told)
    return 0 if all(result.good for result in results) else 1


def _standing(
    folder: Path, copy: Path, other: Path | None, setting: Setting, names: Sequence[str]
) -> list[Result]:
    """Ride waves on a cluster of two `nebula up` on this machine. Raise Failed."""
    home = folder / names[0]
    arguments = ["--restart-limit", "1000", "--restart-pause", "0.5"]
    arguments += ["--stall-limit", str(STALL_LIMIT)] if "stall" in names else []
    with contextlib.ExitStack() as around:
        clock: Path | None = None
        environ: Mapping[str, str] = {}
        if "clock" in names:
            home.mkdir(parents=True)
            clock, environ = stand_in_clock(home, copy)
        if "disk" in names:
            around.enter_context(small_disk(home / "up-0" / "nats"))
        cluster = around.enter_context(
            start(
                home,
                other or copy,
                [setting.model],
                engine=setting.engine,
                arguments=arguments,
                environ=environ,
                others=copy if other else None,
            )
        )
        return measure(
            Standing(cluster, clock),
            setting,
            waves(names, setting),
            lambda: next(iter(cluster.engine_urls().values())),
        )


def _cut_apart(folder: Path, copy: Path, setting: Setting, names: Sequence[str]) -> list[Result]:
    """Ride waves on hosts in network namespaces. Raise Failed."""
    model = Wanted(MODEL, {**setting.model.fields, "replicas": 3})
    setting = setting._replace(silence=HANG)
    results = []
    for apart, title in ((False, "hosts"), (True, "apart")):
        chosen = [name for name in names if (name == "path") == apart]
        if not chosen:
            continue
        with hosts.start(
            folder / title, copy, [model], engine=setting.engine, apart=apart
        ) as place:
            results += measure(place, setting, waves(chosen, setting))
            _say(f"nodes declared lost: {place.lost_nodes()}; moves: {place.moves()}")
    return results


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Failed as error:
        raise SystemExit(str(error)) from error
