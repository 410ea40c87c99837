"""What a run was, in words: sums over many seeds, and the few events that lead to a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nebula.history.description import describe
from tests.simulation.journal import EPOCH
from tests.simulation.scenario import Scenario
from tests.simulation.world import Outcome, World

LAST = 30


def summary(outcomes: Iterable[Outcome], seconds: float) -> str:
    """Sum up many runs in a few lines."""
    runs = list(outcomes)
    faults: Counter[str] = sum((each.faults for each in runs), Counter())
    asked: Counter[str] = sum((each.asked for each in runs), Counter())
    attempts: Counter[str] = sum((each.attempts for each in runs), Counter())
    events, steps = sum(each.events for each in runs), sum(each.steps for each in runs)
    held = sum(not each.law for each in runs)
    largest = max(runs, key=lambda each: each.nodes)
    lines = [
        f"{len(runs):,} seeds in {seconds:.1f} s: {held:,} held every law, {len(runs) - held:,} no",
        f"{steps:,} steps, {events:,} events in the logs, {sum(faults.values()):,} faults, "
        f"{sum(asked.values()):,} requests",
        f"the largest world had {largest.nodes} nodes and {largest.models} models",
        "faults: " + ", ".join(f"{name} {count:,}" for name, count in sorted(faults.items())),
        "requests: " + ", ".join(f"{name} {count:,}" for name, count in sorted(asked.items())),
    ]
    lines.append(
        "attempts: " + ", ".join(f"{name} {count:,}" for name, count in sorted(attempts.items()))
    )
    return "\n".join(lines)


def story(scenario: Scenario, original: Scenario) -> str:
    """Run a failing scenario once more, and tell what leads to its failure."""
    world = World(scenario)
    outcome = world.run()
    machines = ", ".join(
        f"{each.id} with {'+'.join(str(device.memory >> 30) for device in each.devices)} GiB"
        for each in scenario.machines
    )
    lines = [
        f"seed {scenario.seed}: {outcome.broken}",
        f"  {len(scenario.steps)} of {len(original.steps)} steps are enough; "
        f"{scenario.routers} of {original.routers} routers, {machines}",
        *(f"  {step}" for step in scenario.steps),
        "  what the log holds then:",
    ]
    records = world.cluster.journal.records
    if len(records) > LAST:
        lines.append(f"    … {len(records) - LAST} earlier events")
    for record in records[-LAST:]:
        at = (record.time - EPOCH) / 1e9
        cause = f" because of {record.cause}" if record.cause else ""
        lines.append(
            f"    {record.seq} at {at:.2f} s: {record.type} {record.id}{cause}: {describe(record)}"
        )
    if outcome.trace:
        lines.append(outcome.trace)
    kept = [original.steps.index(step) for step in scenario.steps]
    lines.append(
        f"  again: python -m tests.simulation --seed {scenario.seed} "
        f"--only {','.join(map(str, kept)) or 'none'} --routers {scenario.routers} "
        f"--machines {','.join(each.id for each in scenario.machines)}"
    )
    return "\n".join(lines)
