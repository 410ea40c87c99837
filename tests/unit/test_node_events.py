"""The fold of what nodes report: files that come and go on their disks, and doubts about them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nebula.events.evolve import evolve
from nebula.events.evolve_node import CALM
from nebula.events.intents import WeightsPinRequested, WeightsRemoveRequested
from nebula.events.record import Record, encode, read, subject_of
from nebula.events.state import CachedSource, Node
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    ClusterFounded,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    Event,
    NodeHeard,
    NodeLost,
    NodeStopped,
    NodeSuspected,
    WeightsRemoved,
)
from tests.unit.story import SECOND, Story, cluster, gpus, load

HUB, FOLDER = "org/model", "/srv/model"
WHOLE = DownloadFinished(HUB, 100, "c0ffee", 3.0)


def founded(**nodes: Sequence[float]) -> Story:
    """Begin with nodes in a cluster that knows all events."""
    story = Story().given("lab", ClusterFounded("lab", VERSION))
    for node, devices in nodes.items():
        story.given(node, gpus(*devices))
    return story


def alpha(story: Story) -> Node:
    return story.state.nodes["alpha"]


def held(*events: Event, source: str = HUB) -> CachedSource | None:
    """Return how a source lies on a node after these events."""
    return alpha(cluster(alpha=[80]).given("alpha", *events)).weights.get(source)


# Files


def test_files_that_were_whole_are_so_no_more_when_to_fetch_them_again_fails() -> None:
    failed = DownloadFailed(HUB, "a file is damaged", 5.0)
    known = held(WHOLE, failed)
    assert known is not None
    assert (known.whole, known.reason, known.retry_in) == (False, "a file is damaged", 5.0)
    assert known.total == 100  # how much there is is still known


def test_a_pin_outlives_the_files_and_whatever_becomes_of_a_download() -> None:
    pin = WeightsPinRequested(HUB, True)
    ways: list[tuple[Event, ...]] = [
        (pin, WHOLE),
        (pin, DownloadStarted(HUB, "main", 1, 0, 100), DownloadProgressed(HUB, 50, 100)),
        (pin, DownloadWaits(HUB, "two others come first"), DownloadFailed(HUB, "no", None)),
        (WHOLE, pin, WeightsRemoved(HUB, "by hand")),
    ]
    for way in ways:
        known = held(*way)
        assert known is not None
        assert known.pinned
    assert known == CachedSource(pinned=True)  # of the last way: nothing but the wish is left


def test_files_that_are_removed_leave_nothing_behind() -> None:
    assert held(WHOLE, WeightsRemoveRequested(HUB), WeightsRemoved(HUB, "asked for")) is None


def test_a_download_that_goes_on_is_neither_waiting_nor_failed() -> None:
    waits = DownloadWaits(HUB, "two others come first")
    failed = DownloadFailed(HUB, "the line is down", 5.0)
    for ended in (waits, failed):
        known = held(ended, DownloadStarted(HUB, "main", 1, 0, 100))
        assert known == CachedSource(0, 100, fetched=True)


@pytest.mark.parametrize(
    ("source", "room"),
    [(HUB, False), (FOLDER, True)],
)
def test_only_a_folder_that_is_found_or_missed_changes_what_may_be_placed(
    source: str, room: bool
) -> None:
    """A hub's files can be fetched to any node; a folder is where it is."""
    for event in (DownloadFinished(source, 9, "", 0.0), DownloadFailed(source, "not here", None)):
        story = cluster(alpha=[80], beta=[80])
        before = story.state.capacity_seq
        story.given("alpha", event)
        assert story.state.capacity_seq == (story.state.seq if room else before)


def test_files_of_one_node_are_not_those_of_another() -> None:
    story = cluster(alpha=[80], beta=[80]).given("beta", WHOLE)
    assert (HUB in alpha(story).weights, HUB in story.state.nodes["beta"].weights) == (False, True)


# Doubts


def at(seconds: float, *events: Event) -> Node:
    """Return a node of which the first event is told at once, and the others after some seconds."""
    state = cluster(alpha=[80]).state
    for number, event in enumerate(events):
        time = state.time if not number else state.time + int(seconds * SECOND)
        state = evolve(state, entry(state.seq + 1, time, event))
    return state.nodes["alpha"]


def entry(seq: int, time: int, event: Event) -> Record:
    return read(seq, time, subject_of("alpha", event), encode(event))


@pytest.mark.parametrize(("pause", "doubts"), [(1, 2), (CALM / SECOND - 1, 2), (CALM / SECOND, 1)])
def test_losses_are_in_a_row_until_the_calm_between_them_is_over(pause: float, doubts: int) -> None:
    assert at(pause, NodeLost(), NodeLost()).doubts == doubts


def test_a_false_suspicion_is_a_doubt_and_word_of_an_unsuspected_node_is_none() -> None:
    assert at(1, NodeHeard()).doubts == 0
    node = at(1, NodeSuspected())
    assert (node.suspected, node.doubts) == (2, 0)
    node = at(1, NodeSuspected(), NodeHeard())
    assert (node.suspected, node.doubts) == (0, 1)


@pytest.mark.parametrize("away", [NodeLost(), NodeStopped()])
def test_a_node_that_is_away_is_not_suspected(away: Event) -> None:
    story = founded(alpha=[80]).given("alpha", away)
    before = alpha(story)
    assert alpha(story.given("alpha", NodeSuspected(), NodeHeard())) is before


def test_doubts_outlive_a_registration_and_a_suspicion_ends_with_it() -> None:
    story = founded(alpha=[80]).given("alpha", NodeSuspected(), NodeHeard(), NodeSuspected())
    node = alpha(story.given("alpha", gpus(80)))
    assert (node.doubts, node.suspected) == (1, 0)


# Several nodes


def test_a_node_that_stops_ends_its_own_engines_and_no_others() -> None:
    story = founded(alpha=[80], beta=[80]).given("chat", load(2, "8GiB"), load(2, "8GiB"))
    story.settles()
    where = {replica: story.replica(replica).node for replica in ("chat-0", "chat-1")}
    assert sorted(where.values()) == ["alpha", "beta"]
    for replica in where:
        story.runs(replica)
    story.given("alpha", NodeStopped())
    phases = {node: story.replica(replica).phase for replica, node in where.items()}
    assert phases == {"alpha": "stopped", "beta": "ready"}


@pytest.mark.parametrize(("number", "stopped"), [(0, True), (2, False), (3, True), (4, False)])
def test_only_the_process_that_is_registered_stops_a_node(number: int, stopped: bool) -> None:
    """0 is of a version that does not tell which process it is."""
    story = founded(alpha=[80]).given("alpha", gpus(80)).given("alpha", NodeStopped(number))
    assert alpha(story).stopped == stopped
