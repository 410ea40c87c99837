"""The engine directly, through Nebula and through other gateways, in turns in one run.

`python -m benchmarks.data_plane` from the repository's root. Everything is started here with the
same stand-in for vLLM, one for each way, and ended with the run. Prints medians, and the ratios of
each round with their spread. Needs wrk; other gateways are installed from PyPI, each in its own
venv.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.session import context, folder_option, headline, keep, session

from . import competitors, counters, dynamo, profiles, report, vllm, works
from .figures import Measured, Work
from .processes import Failed
from .ways import (
    ALL_NEBULA,
    NEBULA,
    REPOSITORY,
    Serving,
    Stage,
    Task,
    checkout,
    freeze,
    shown,
    start,
)

PEERS = {**competitors.ALL, dynamo.NAME: competitors.DYNAMO}
WORKS = (*works.ALL, "vllm")
TASKS: tuple[Task, ...] = ("chat", "embedding", "vllm")
PROFILES = REPOSITORY / "benchmarks" / "profiles.txt"
SETTLING = 0.3  # seconds after a load, in which abandoned answers end


def measure_stage(
    chosen: Sequence[Work],
    names: Sequence[str],
    stage: Stage,
    options: argparse.Namespace,
    found: list[profiles.Profile],
) -> list[report.Row]:
    """Measure all works that one kind of engine does. What fails is left out with its reason.

    `found` gets the profiles, where they are wanted.
    """
    rows = [report.Row(work, name, [], []) for work in chosen for name in names]
    with contextlib.ExitStack() as everything:
        ways: dict[str, Serving] = {}
        # Where all ways lead to one engine, Nebula starts it.
        order = sorted(names, key=lambda name: not name.startswith("nebula"))
        for number, name in enumerate(order if stage.task == "vllm" else names):
            folder = stage.folder / f"{number}-{name.partition('@')[0]}"
            try:
                ways[name] = everything.enter_context(start(name, stage._replace(folder=folder)))
                if stage.task == "vllm":
                    stage = stage._replace(engine=ways[name].engine)
            except (Failed, OSError, httpx.HTTPError) as error:
                _fail([row for row in rows if row.way == name], error)
        for row in rows:
            if row.way in ways:
                _measure(row._replace(reasons=[]), ways[row.way], 1.0, stage.folder, "warming up")
        for number in range(options.rounds):
            # The order rotates, so that none is always measured after the heaviest load.
            turn = 1 if number % 2 == 0 else -1
            for work in chosen:
                for row in [row for row in rows if row.work is work][::turn]:
                    done = None
                    if row.way in ways:
                        what = f"round {number + 1}"
                        done = _measure(
                            row,
                            ways[row.way],
                            options.seconds,
                            stage.folder,
                            what,
                            count=options.count,
                        )
                    row.rounds.append(done)
        for row in rows:
            if options.profile is not None and row.way in ways and stage.task != "vllm":
                found += _profile(row, ways[row.way], stage, options)
    return rows


def _profile(
    row: report.Row, way: Serving, stage: Stage, options: argparse.Namespace
) -> list[profiles.Profile]:
    try:
        return profiles.profiled(
            row.work, row.way, way, options.seconds, stage.folder, options.venvs
        )
    except (Failed, OSError, httpx.HTTPError) as error:
        _fail([row], error)
        return []


def _measure(
    row: report.Row, way: Serving, seconds: float, folder: Path, what: str, *, count: bool = False
) -> Measured | None:
    try:
        if count:
            with counters.counting(way.roots) as counts:
                done = row.work.measure(way, seconds, folder)
            done = done._replace(counts=counts)
        else:
            done = row.work.measure(way, seconds, folder)
    except (Failed, OSError, httpx.HTTPError) as error:
        _fail([row], error)
        return None
    finally:
        time.sleep(SETTLING)
    told = ", ".join(
        f"{report.number(done.figures[figure.name])} {figure.unit}" for figure in row.work.figures
    )
    failed = f", {done.failed} failed" if done.failed else ""
    where = f"{row.work.name}, {row.work.connections} connections, {row.way}"
    print(f"{what}: {where}: {told}{failed}", file=sys.stderr, flush=True)
    return done


def _fail(rows: Sequence[report.Row], error: Exception) -> None:
    for row in rows:
        row.reasons.append(str(error) or repr(error))
        print(f"{row.work.name}, {row.way}: {row.reasons[-1]}", file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.data_plane", description=__doc__)
    parser.add_argument(
        "--ways",
        type=_names,
        default=["direct", "nebula", *PEERS],
        help="of direct, nebula, smg, vllm-router, litellm, dynamo [all]; nebula@FOLDER is "
        "Nebula as it is in another checkout, nebula-keyed is asked with an API key and limits, "
        "nebula-workers and nebula-keyed-workers have several processes for a gateway; "
        "each may have @FOLDER, too",
    )
    parser.add_argument("--workers", type=int, default=2, help="of these processes [2]")
    parser.add_argument(
        "--work",
        type=_names,
        default=list(works.ALL),
        help=f"of {', '.join(WORKS)} [all but vllm: needs the engine and the demo's models]",
    )
    parser.add_argument(
        "--connections",
        type=lambda text: [int(number) for number in _names(text)],
        default=[32],
        help="one number, or several joined by commas [32]",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument(
        "--count",
        action="store_true",
        help="count instructions, cycles and context switches of each process with perf",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        nargs="?",
        const=PROFILES,
        metavar="FILE",
        help="look at each process with py-spy or perf after the last round, and write what "
        f"takes its time [{PROFILES.relative_to(REPOSITORY)}]",
    )
    parser.add_argument("--venvs", type=Path, default=REPOSITORY / ".bench")
    folder_option(parser)
    parser.add_argument("--json", type=Path, help="write all figures of all rounds here")
    options = parser.parse_args()
    known = {"direct", *ALL_NEBULA, *PEERS}
    for name in options.ways:
        way, _, folder = name.partition("@")
        if way not in known or (folder and way not in ALL_NEBULA):
            parser.error(f"--ways: there is no {name!r}")
        if folder and not (checkout(name) / "nebula").is_dir():
            parser.error(f"--ways: there is no Nebula in {checkout(name)}")
    if "vllm" in options.work and not any(name.startswith("nebula") for name in options.ways):
        parser.error("--work vllm: it is Nebula that starts the engine, so name it in --ways")
    for name in options.work:
        if name not in WORKS:
            parser.error(f"--work: there is no {name!r}")
    options.venvs = options.venvs.resolve()
    return options


def main() -> None:
    """Start, measure, end and print."""
    options = parse()
    facts = context()
    rows: list[report.Row] = []
    found: list[profiles.Profile] = []
    names = [name for name in options.work if name in works.ALL]
    chosen = works.chosen(names, options.connections)
    chosen += vllm.WORKS if "vllm" in options.work else ()
    with session("data-plane", options.folder) as folder:
        sources = freeze(options.ways, folder / "sources")
        for task in TASKS:
            mine = [work for work in chosen if work.task == task]
            if mine:
                stage = Stage(task, folder / task, options.venvs, sources, workers=options.workers)
                rows += measure_stage(mine, options.ways, stage, options, found)
    for name in options.ways:
        if name in PEERS:
            facts[name] = competitors.version(PEERS[name], options.venvs) or "not there"
    rows = [row._replace(way=shown(row.way)) for row in rows]
    found = [each._replace(way=shown(each.way)) for each in found]
    ways = [shown(name) for name in options.ways]
    references = [name for name in ways if name in ("direct", "smg") or "@" in name]
    print("\n" + headline(facts))
    print(f"\n{options.rounds} rounds of {options.seconds:g} s\n")
    print(report.tables(rows, references), end="")
    for way in ways:
        if way.startswith(NEBULA):
            print(report.fastest(rows, way, list(competitors.ALL)), end="")
    print(report.shares(rows), end="")
    print("\n\n".join(filter(None, (report.added(rows, "single"), report.reasons(rows)))))
    if options.profile is not None:
        options.profile.write_text(profiles.page(found, headline(facts)))
    keep(options.json, facts, seconds=options.seconds, figures=report.raw(rows))


if __name__ == "__main__":
    main()
