"""A failing scenario made small: every step that it also fails without is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from tests.simulation.scenario import Scenario, Step
from tests.simulation.world import World

T = TypeVar("T")
RUNS = 400
"""Runs that are spent on one scenario at most."""


def minimise(scenario: Scenario, law: str) -> Scenario:
    """Return the smallest scenario found in which the same law is broken."""
    left = RUNS

    def broken(tried: Scenario) -> bool:
        nonlocal left
        left -= 1
        return left > 0 and World(tried).run().law == law

    def with_steps(steps: Sequence[Step]) -> Scenario:
        return replace(scenario, steps=tuple(steps))

    end = World(scenario).run().at  # no later step has mattered
    scenario = with_steps([step for step in scenario.steps if step.at <= end])
    if scenario.routers > 1 and broken(replace(scenario, routers=1)):
        scenario = replace(scenario, routers=1)
    steps = fewest(scenario.steps, lambda tried: broken(with_steps(tried)))
    scenario = with_steps(steps)
    for machine in scenario.machines:
        rest = tuple(each for each in scenario.machines if each.id != machine.id)
        if rest and broken(replace(scenario, machines=rest)):
            scenario = replace(scenario, machines=rest)
    return with_steps(fewest(scenario.steps, lambda tried: broken(with_steps(tried))))


def fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Leave out as many items as possible, larger runs of them first (delta debugging)."""
    kept = list(items)
    size = max(1, len(kept) // 2)
    while kept:
        at, before = 0, len(kept)
        while at < len(kept):
            tried = kept[:at] + kept[at + size :]
            if fails(tried):
                kept = tried
            else:
                at += size
        if size > 1:
            size //= 2
        elif len(kept) == before:
            break
    return kept
