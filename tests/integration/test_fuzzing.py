"""Bad input at every path: a clear 4xx in the form of the path, in little memory.

`make fuzz` tries more of it, and prints a report.
"""

import pytest

from tests.fuzz.run import QUICK, Outcome, administration, clients, prepare
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
ROOM = 256 * MIB
"""Bytes by which a gateway may grow: a few bodies of 64 MiB, which is as large as they may be."""


def well(outcome: Outcome) -> bool:
    assert not outcome.verdicts.faults, outcome.report()
    assert not outcome.watch.wrong, outcome.report()
    assert outcome.watch.most - outcome.watch.before < ROOM, outcome.report()
    return sum(outcome.verdicts.tried.values()) > 100


async def test_the_paths_for_clients(own_cluster: Cluster) -> None:
    own_cluster.up()
    await prepare(own_cluster)
    outcome = await clients(own_cluster, QUICK)
    assert well(outcome)
    assert outcome.watch.took


async def test_the_administration(own_cluster: Cluster) -> None:
    own_cluster.up("--no-node")
    await own_cluster.ready()
    assert well(await administration(own_cluster, QUICK))
