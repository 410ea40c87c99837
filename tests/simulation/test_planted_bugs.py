"""Whether the simulation finds bugs: some are planted, and must be found soon and made small."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, Bug, planted
from tests.simulation.minimise import fewest, minimise
from tests.simulation.scenario import draw
from tests.simulation.world import Outcome, World

SEEDS = 30
"""Seeds within which each of the bugs must be found."""

FAILURES = 3
"""Failures of which the smallest is made smaller still."""


def failure() -> Outcome:
    """Return, of the first failures, that with the fewest steps."""
    found: list[Outcome] = []
    for seed in range(SEEDS):
        outcome = World(draw(seed)).run()
        if outcome.law:
            found.append(outcome)
        if len(found) == FAILURES:
            break
    if not found:
        pytest.fail(f"not found with {SEEDS} seeds")
    return min(found, key=lambda outcome: len(draw(outcome.seed).steps))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_found_and_made_small(bug: Bug) -> None:
    with planted(bug):
        found = failure()
        assert found.law in bug.laws
        scenario = draw(found.seed)
        small = minimise(scenario, found.law)
        again = World(small).run()
    assert again.law == found.law
    assert len(small.steps) <= min(bug.steps, len(scenario.steps))
    assert not World(small).run().law


def test_the_fewest_items_that_fail_are_found() -> None:
    assert fewest(range(100), lambda kept: {17, 60, 61} <= set(kept)) == [17, 60, 61]
