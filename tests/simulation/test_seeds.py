"""A hundred seeds, and what makes their verdict worth something: each is one run, exactly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.minimise import minimise
from tests.simulation.report import story
from tests.simulation.scenario import draw
from tests.simulation.world import World

TOGETHER = 25
SEEDS = 100


@pytest.mark.parametrize("first", range(0, SEEDS, TOGETHER))
def test_every_law_holds_for_a_hundred_seeds(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        scenario = draw(seed)
        outcome = World(scenario).run()
        if outcome.law:
            pytest.fail(story(minimise(scenario, outcome.law), scenario), pytrace=False)


def test_a_seed_is_the_same_run_in_every_process() -> None:
    prints = {_fingerprint(seed=7, hashing=number) for number in ("1", "2")}
    assert prints == {World(draw(7)).run().print}


def _fingerprint(seed: int, hashing: str) -> str:
    """Run a seed where Python hashes texts, and so orders sets and maps, in another way."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hashing},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]
