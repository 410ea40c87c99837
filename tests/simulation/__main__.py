"""Run seeds: `python -m tests.simulation --seeds 1000`, or one: `--seed 4711`."""

from __future__ import annotations

import os
import sys
import time

import click
from msgspec.structs import replace

from tests.simulation.minimise import minimise
from tests.simulation.report import story, summary
from tests.simulation.scenario import Scenario, draw
from tests.simulation.seeds import runs
from tests.simulation.world import Outcome, World

SHOWN = 5
"""Failures that are told in full."""


def some(scenario: Scenario, only: str, routers: int, machines: str) -> Scenario:
    """Return a part of a scenario, as a failure's last line names it."""
    if only:
        kept = [] if only == "none" else [int(each) for each in only.split(",")]
        scenario = replace(scenario, steps=tuple(scenario.steps[each] for each in kept))
    if machines:
        names = machines.split(",")
        there = tuple(each for each in scenario.machines if each.id in names)
        scenario = replace(scenario, machines=there)
    return replace(scenario, routers=routers) if routers else scenario


@click.command()
@click.option("--seed", type=int, help="Run this seed alone, and tell all of it if it fails.")
@click.option("--seeds", default=1000, show_default=True, help="Run so many seeds.")
@click.option("--first", default=0, show_default=True, help="Begin with this seed.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Cores to use.")
@click.option("--only", default="", help="With --seed: only these steps, 3,7,9.")
@click.option("--routers", default=0, help="With --seed: so many routers.")
@click.option("--machines", default="", help="With --seed: only these machines, n0,n2.")
def main(
    seed: int | None,
    seeds: int,
    first: int,
    jobs: int,
    only: str,
    routers: int,
    machines: str,
) -> None:
    """Let Nebula's policies run in simulated worlds, and stop at the laws that they break."""
    if seed is not None:
        whole = draw(seed)
        scenario = some(whole, only, routers, machines)
        outcome = World(scenario).run()
        if outcome.law:
            click.echo(story(scenario if only else minimise(scenario, outcome.law), whole))
            sys.exit(1)
        click.echo(summary([outcome], 0.0))
        click.echo(f"fingerprint {outcome.print}")
        return
    began = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in runs(range(first, first + seeds), jobs):
        outcomes.append(outcome)
        if outcome.law:
            click.echo(f"seed {outcome.seed}: {outcome.broken}")
    click.echo(summary(outcomes, time.monotonic() - began))
    failed = sorted(each.seed for each in outcomes if each.law)
    for number in failed[:SHOWN]:
        whole = draw(number)
        click.echo(story(minimise(whole, World(whole).run().law), whole))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
