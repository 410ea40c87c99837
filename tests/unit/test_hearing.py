"""For how long nodes are silent: what counts as a sign of life, by the router's own clock alone."""

from __future__ import annotations

import msgspec
import pytest

from nebula.actors.router.hearing import FRESH, MOST_TOLD, NEVER, Hearing, Silence, Told
from nebula.events.heartbeats import RouterHeartbeat
from nebula.events.intents import NodeDrainRequested
from nebula.events.vocabulary import (
    DownloadProgressed,
    EngineFailed,
    Event,
    NodeHeard,
    NodeSuspected,
)
from tests.unit.story import Story, cluster, gpus


class Ear:
    """A router's hearing with a clock of its own."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.clock = 1000.0
        self.hearing = Hearing(lambda: self.clock)
        self.of("alpha")

    def of(self, node: str, *routers: str) -> Silence:
        return self.hearing.silences(self.story.state, routers)[node]

    def appended(self, identity: str, event: Event) -> None:
        self.story.given(identity, event)
        self.hearing.on_record(self.story.log[-1])
        self.of("alpha")

    def later(self, seconds: float) -> None:
        self.clock += seconds


@pytest.fixture
def ear() -> Ear:
    ear = Ear(cluster(alpha=[80], beta=[80]))
    ear.later(40)
    return ear


def test_a_heartbeat_ends_a_silence(ear: Ear) -> None:
    assert ear.of("alpha").seconds == 40.0
    ear.hearing.on_heartbeat("alpha")
    ear.later(2)
    assert ear.of("alpha").seconds == 2.0
    assert ear.of("alpha").sign == "its heartbeat"
    assert ear.of("beta").seconds == 42.0
    assert ear.of("beta").sign == "", "it has not been heard since this router listens"


@pytest.mark.parametrize(
    ("identity", "event"),
    [
        ("alpha", gpus(80)),
        ("alpha", NodeHeard()),
        ("alpha", DownloadProgressed("org/model", 1, 2)),
        ("chat-0", EngineFailed("no", node="alpha")),
    ],
    ids=lambda given: type(given).__name__,
)
def test_silence_begins_anew_with_every_event_of_the_node_s_own(
    ear: Ear, identity: str, event: Event
) -> None:
    ear.appended(identity, event)
    ear.later(1)
    assert ear.of("alpha").seconds == 1.0
    assert ear.of("alpha").sign.endswith(" in the log")
    assert ear.of("beta").seconds == 41.0


@pytest.mark.parametrize("event", [NodeDrainRequested(), NodeSuspected()])
def test_what_others_say_of_a_node_is_not_a_sign_of_its_life(ear: Ear, event: Event) -> None:
    ear.appended("alpha", event)
    assert ear.of("alpha").seconds == 40.0


def test_a_registration_counts_though_only_the_state_tells_of_it(ear: Ear) -> None:
    ear.story.given("alpha", gpus(80))
    assert ear.of("alpha").seconds == 0.0


def test_a_stored_heartbeat_counts_when_it_is_another_one(ear: Ear) -> None:
    ear.hearing.on_stored("alpha", 7)
    assert ear.of("alpha").seconds == 40.0, "nobody knows when that one was sent"
    ear.later(1)
    ear.hearing.on_stored("alpha", 7)
    assert ear.of("alpha").seconds == 41.0
    ear.hearing.on_stored("alpha", 9)
    ear.later(1)
    assert ear.of("alpha").seconds == 1.0
    assert ear.of("alpha").sign == "its stored heartbeat"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, 0.0),
        ({"beta": 12.0}, 0.0),
        ({"alpha": 12.0}, 12.0),
        ({"alpha": NEVER}, 40.0),
        (None, 40.0),
    ],
)
def test_what_another_router_hears_counts_as_heard(ear: Ear, told: Told, seconds: float) -> None:
    ear.hearing.on_told("r2", told)
    assert ear.of("alpha").seconds == seconds
    ear.later(50)
    assert ear.of("alpha").seconds == seconds + 50, "the router is silent by now itself"


def test_a_heartbeat_of_an_older_router_tells_nothing_of_nodes() -> None:
    assert msgspec.json.decode(b'{"router":"r2"}', type=RouterHeartbeat).silent is None


def test_a_router_tells_only_of_nodes_that_it_does_not_hear_itself(ear: Ear) -> None:
    ear.hearing.on_told("r2", {})
    ear.hearing.on_heartbeat("alpha")
    assert ear.hearing.tell(ear.story.state) == {"beta": NEVER}
    ear.later(FRESH + 1)
    assert ear.hearing.tell(ear.story.state) == {"alpha": FRESH + 1, "beta": NEVER}


def test_a_router_that_hears_few_of_a_thousand_tells_nothing_and_its_heartbeat_stays_small() -> (
    None
):
    ear = Ear(cluster(**{name: [80] for name in ["alpha", *(f"n{i}" for i in range(1000))]}))
    assert ear.hearing.tell(ear.story.state) is None
    nodes = list(ear.story.state.nodes)
    for node in nodes[MOST_TOLD + 1 :]:
        ear.hearing.on_heartbeat(node)
    assert ear.hearing.tell(ear.story.state) is None, "it is one too many"
    for node in nodes[MOST_TOLD:]:
        ear.hearing.on_heartbeat(node)
    told = ear.hearing.tell(ear.story.state)
    assert told is not None
    assert len(told) == MOST_TOLD
    assert len(msgspec.json.encode(RouterHeartbeat("r1", silent=dict(told)))) < 2500


def test_the_time_to_answer_counts_from_when_the_suspicion_is_known_here(ear: Ear) -> None:
    ear.appended("alpha", NodeSuspected())
    asked = ear.story.state.seq
    assert (ear.of("alpha").suspicion, ear.of("alpha").asked) == (asked, 0.0)
    ear.later(4)
    assert ear.of("alpha").asked == 4.0
    ear.hearing.restart()
    assert ear.of("alpha").asked == 0.0, "it may have missed the answer"
    ear.appended("alpha", NodeHeard())
    assert (ear.of("alpha").suspicion, ear.of("alpha").asked) == (0, 0.0)


def test_calm_counts_from_the_last_doubt_that_is_known_here(ear: Ear) -> None:
    ear.appended("alpha", NodeSuspected())
    ear.appended("alpha", NodeHeard())
    assert ear.of("alpha").calm == 0.0
    ear.later(700)
    assert ear.of("alpha").calm == 700.0


def test_what_other_routers_tell_is_kept_for_the_reason(ear: Ear) -> None:
    ear.hearing.on_told("r2", {"alpha": 30.0})
    ear.later(1)
    assert dict(ear.of("alpha", "r3", "r2").routers) == {"r2": 31.0, "r3": None}


def test_a_node_that_it_does_not_hear_is_looked_up(ear: Ear) -> None:
    ear.hearing.on_heartbeat("beta")
    assert ear.hearing.doubtful(ear.story.state) == ["alpha"]
