"""The line with which an actor says that it is in."""

from nebula.actors.greeting import greeting, offer
from nebula.events.memory import GIB
from nebula.events.state import EMPTY
from nebula.events.values import Device
from nebula.events.vocabulary import ClusterFounded, NodeLost, NodeRegistered
from tests.unit.story import Story, load


def test_it_names_the_cluster_its_version_and_what_there_is() -> None:
    story = Story().given("c1", ClusterFounded("lab", 1))
    assert greeting("router r1", story.state, "nats://h:4222") == (
        "router r1 is in cluster 'lab' (c1), version 1, at nats://h:4222, "
        "with no nodes and no models"
    )
    story.given("n1", NodeRegistered((Device(0, "gpu", "H100", 80 * GIB),)))
    story.given("n2", NodeRegistered(()), NodeLost("silent")).given("a", load())
    assert greeting("gateway", story.state, "nats://h").endswith("with 1 node and 1 model")
    assert "cluster ''" in greeting("gateway", EMPTY, "nats://h")
    assert offer(story.state.nodes["n1"], 2) == (
        "it offers gpu0 (H100, 80.0 GiB); 2 replicas assigned to it"
    )
    assert offer(story.state.nodes["n2"], 0) == ("it offers no device; no replicas assigned to it")
