"""One log is of one cluster and one version: an actor that names another ends with a sentence."""

from pathlib import Path

import pytest

from nebula.events.intents import ModelLoadRequested
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded, ClusterVersionRaised
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_a_new_log_begins_with_its_cluster_and_the_newest_version(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    founded = await own_cluster.records(ClusterFounded)
    assert [record.seq for record in founded] == [1]
    assert founded[0].content == ClusterFounded("", VERSION)


async def test_an_actor_that_names_another_cluster_ends(own_cluster: Cluster) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    result = await own_cluster.nebula("router", "--cluster", "elsewhere")
    assert result.code == 78
    assert "not of 'elsewhere'" in result.err


async def test_a_second_up_does_not_join_unasked(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    folder = str(tmp_path / "second")
    result = await own_cluster.nebula("up", "--folder", folder, "--no-node")
    assert result.code == 78
    assert "there is a cluster at" in result.err
    assert "--cluster" in result.err


async def test_an_older_log_is_raised_once_all_know_the_version(own_cluster: Cluster) -> None:
    own_cluster.start("nats")
    connection = await Connection(own_cluster.url(), "older").open(patience=10)
    log = await Log(connection).open(patience=10)
    await log.append("early", ModelLoadRequested("simulated"))
    await connection.close()
    for name in ("router", "node", "gateway"):
        own_cluster.start(name)
    await own_cluster.until(lambda state: state.cluster.version == VERSION, "the version is raised")
    [founded] = await own_cluster.records(ClusterFounded)
    assert founded.content == ClusterFounded("", 0)
    raised = [record.content for record in await own_cluster.records(ClusterVersionRaised)]
    assert [each.version for each in raised] == list(range(1, VERSION + 1))  # type: ignore[union-attr]


async def test_actors_of_a_version_that_is_passed_end_with_a_sentence(
    own_cluster: Cluster,
) -> None:
    """A log of a Nebula to come: its first entry says so."""
    own_cluster.start("nats")
    own_cluster.start("router")
    own_cluster.start("gateway")
    await own_cluster.ready()
    [founded] = await own_cluster.records(ClusterFounded)
    await own_cluster.publish(
        f"nebula.events.cluster.{founded.id}.ClusterVersionRaised",
        b'{"version": %d}' % (VERSION + 1),
    )
    assert own_cluster.ended("router") == 78
    said = f"goes by version {VERSION + 1}, and this Nebula knows up to {VERSION}"
    assert said in own_cluster.output("router")
