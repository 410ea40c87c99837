"""Seeds run one after the other or on several cores.

Apart from `__main__`, because a spawned process can't find there what it is to run.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

from tests.simulation.scenario import draw
from tests.simulation.world import Outcome, World


def run(seed: int) -> Outcome:
    """Run one seed."""
    return World(draw(seed)).run()


def runs(seeds: range, jobs: int) -> Iterator[Outcome]:
    """Run many seeds on several cores, in the order in which they end."""
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=500) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=8)
