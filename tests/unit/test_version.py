"""What an event means depends on the log alone: two versions of Nebula fold it to the same."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from nebula.actors.placement.decision import decide
from nebula.actors.projection import NewerCluster, Projection
from nebula.actors.router.lifecycle import Observation, decide_lifecycle
from nebula.actors.router.raising import HEARD_FOR, Readers, decide_raise
from nebula.events import snapshot, validation, version
from nebula.events.evolve import evolve
from nebula.events.folding import fold
from nebula.events.memory import GIB
from nebula.events.record import Record, read
from nebula.events.sizes import COUNTS, INTENT, oversized
from nebula.events.state import EMPTY
from nebula.events.values import Device, Task
from nebula.events.version import SINCE, VERSION, premature, too_new
from nebula.events.vocabulary import (
    ClusterFounded,
    ClusterVersionRaised,
    EventRejected,
    ModelAssigned,
    NodeLost,
    NodeRegistered,
)
from nebula.history.replay import BadLog, Replay
from nebula.store.log import Log
from tests.unit.story import Story, load

OLD: Mapping[str, Mapping[str, int]] = {}
NEW: Mapping[str, Mapping[str, int]] = {"ModelLoadRequested": {"evictable": 2}}
"""A stand-in for a Nebula whose load request has one field more than cluster version 1 knows."""


def node(reads: int, gib: int = 10) -> NodeRegistered:
    return NodeRegistered((Device(0, "gpu", "x", gib * GIB),), reads=reads)


def founded(at: int = 1, *reads: int) -> Story:
    story = Story().given("c1", ClusterFounded("lab", at))
    for number, each in enumerate(reads, 1):
        story.given(f"n{number}", node(each))
    return story


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "SINCE", NEW)
    monkeypatch.setattr(version, "VERSION", 2)


def test_a_field_that_not_all_know_is_refused_by_all_until_they_do(newer: None) -> None:
    """The older Nebula finds the field malformed; the newer one must not grant it alone."""
    story = founded(1, 2).given("a", load(memory="8GiB", evictable=True))
    [answer] = decide(story.state)
    assert isinstance(answer.event, EventRejected)
    assert "evictable: it needs cluster version 2, and this cluster goes by 1" in (
        answer.event.reason
    )
    story.given("c1", ClusterVersionRaised(2)).given("b", load(memory="8GiB", evictable=True))
    assert [type(each.event) for each in decide(story.state)] == [ModelAssigned, EventRejected]


def test_an_older_log_folds_as_it_did(newer: None) -> None:
    story = Story().given("n1", node(0)).given("a", load(memory="8GiB"))
    assert [type(each.event) for each in decide(story.state)] == [ModelAssigned]


def test_the_version_is_raised_once_every_router_and_node_knows_the_next() -> None:
    story = founded(0, 1, 1)
    assert decide_raise(story.state, None) is None, "it has not listened for long enough"
    assert decide_raise(story.state, {"r2": 0}) is None
    raised = decide_raise(story.state, {"r2": 1})
    assert raised is not None
    assert raised.event == ClusterVersionRaised(
        1, "2 routers and 2 nodes know version 1; none that does not was heard within 10 s"
    )
    story.given(raised.id, raised.event)
    assert story.state.cluster.version == 1
    assert decide_raise(story.state, {"r2": 1}) is None


def test_a_node_that_does_not_know_it_holds_it_back_until_it_is_lost() -> None:
    story = founded(0, 1, 0)
    assert decide_raise(story.state, {}) is None
    story.given("n2", NodeLost("silent"))
    assert decide_raise(story.state, {}) is not None


def test_a_router_counts_anew_after_it_heard_nothing() -> None:
    readers = Readers(100.0)
    readers.heard("r2", 0, 101.0)
    assert readers.known(100.0 + HEARD_FOR - 1) is None
    assert readers.known(101.0 + HEARD_FOR) == {"r2": 0}
    assert readers.known(102.0 + HEARD_FOR) == {}
    readers.restart(200.0)
    assert readers.known(201.0) is None


@pytest.mark.parametrize(
    ("identity", "event", "reason"),
    [
        ("c2", ClusterFounded("other", 1), "this log is of cluster 'c1'"),
        ("c2", ClusterVersionRaised(2), "this log is of cluster 'c1'"),
        ("c1", ClusterVersionRaised(99), "version: the next one is 2"),
        ("c1", ClusterVersionRaised(1), "version: the next one is 2"),
        ("c1", ClusterVersionRaised(2), "version: node 'n1' does not know 2"),
    ],
)
def test_no_hand_makes_two_clusters_of_one_log_or_stops_one(
    identity: str, event: ClusterFounded | ClusterVersionRaised, reason: str
) -> None:
    story = founded(1, 1)
    before = story.state.cluster
    story.given(identity, event)
    assert story.state.cluster == before
    assert [each.reason for each in story.state.rejections.values()] == [reason]


def test_a_nebula_that_is_older_than_the_cluster_says_so() -> None:
    assert too_new(founded(VERSION).state) is None
    assert (
        f"this cluster goes by version {VERSION + 1}, and this Nebula knows up to {VERSION}"
        in str(too_new(founded(VERSION + 1).state))
    )


@pytest.mark.parametrize(
    ("subject", "body", "headers"),
    [
        ("nebula.events.model.a.ModelMoved", b"{}", {}),
        ("nebula.events.tenant.a.TenantAdded", b"{}", {}),
        ("nebula.events.model.a.ModelLoadRequested", b'{"source": "/m", "tenant": "t"}', {}),
        ("nebula.events.replica.a-0.EngineStarted", b"{}", {"Nebula-Version": "9"}),
    ],
)
def test_what_only_a_newer_cluster_version_may_know_is_answered_by_no_older_nebula(
    subject: str, body: bytes, headers: dict[str, str]
) -> None:
    newer = founded(VERSION + 1, VERSION + 1).given("b", load(memory="8GiB")).state
    state = evolve(newer, read(newer.seq + 1, 1, subject, body, headers))
    assert not state.rejections
    assert state.seq == newer.seq + 1
    assert decide(state) == ()
    assert decide_lifecycle(state, Observation(readers={"r2": 9}), lost_after=1.0) == ()
    # In a cluster of a version that this Nebula knows, no actor could understand it.
    known = founded(VERSION, VERSION).state
    state = evolve(known, read(known.seq + 1, 1, subject, body, headers))
    assert [type(each.event) for each in decide(state)] == [EventRejected]


def test_a_log_that_goes_on_by_a_newer_version_is_not_judged_by_an_older_nebula() -> None:
    story = founded(VERSION + 1).given("a", load(memory="8GiB"))
    replay = Replay(check=True)
    first, second = story.log[:2]
    replay.take(first)
    with pytest.raises(BadLog, match=r"after event 1 this cluster goes by version"):
        replay.take(second)


@pytest.mark.anyio
async def test_an_actor_that_starts_from_a_newer_cluster_s_snapshot_does_nothing_with_it() -> None:
    """Nothing need come after a snapshot for its reader to see by which version it is read."""

    class Quiet:
        async def follow(self, after: int) -> AsyncIterator[list[Record]]:
            raise AssertionError(f"it follows the log after {after}")
            yield []

    projection = Projection(cast("Log", Quiet()))
    projection.state = founded(VERSION + 1).state
    with pytest.raises(NewerCluster, match="this Nebula knows up to"):
        await projection.run()
    assert projection.ended


def test_the_cluster_comes_through_a_snapshot() -> None:
    state = founded(1, 1).state
    assert snapshot.load(snapshot.dump(state)) == state


# Sizes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", {str(number): "x" for number in range(COUNTS["labels"] + 1)}),
        ("apart", tuple(str(number) for number in range(COUNTS["apart"] + 1))),
        ("env", {f"A{number}": "x" for number in range(COUNTS["env"] + 1)}),
        ("options", {f"a{number}": 1 for number in range(COUNTS["options"] + 1)}),
        ("fallback", tuple(str(number) for number in range(COUNTS["fallback"] + 1))),
        ("env", {"A": "x" * INTENT}),
        ("options", {"seed": "\x7f" * INTENT}),
    ],
)
def test_what_is_too_large_is_refused_by_its_field_and_stays_where_it_was_accepted(
    field: str, value: Any
) -> None:
    event = load(**{field: value})
    assert str(oversized(event)).startswith(f"{field}: ")
    old = Story().given("a", event)
    assert "a" in old.state.models, "a log of before there was a bound folds as it did"
    story = founded(1).given("a", event)
    assert "a" not in story.state.models
    assert fold(EMPTY, story.log) == story.state


def test_what_is_within_the_bounds_is_taken() -> None:
    assert oversized(load(env={"A": "x" * (INTENT - 1000)})) is None
    assert oversized(node(1)) is None
    assert version.premature(founded(1).state, load(evictable=True), OLD) is None


@pytest.mark.parametrize(("task", "since"), [("chat", 0), ("embedding", 0), ("classify", 3)])
def test_a_task_that_not_all_know_is_refused_by_all_until_they_do(task: Task, since: int) -> None:
    """Older ones can't read the request at all, and newer ones must not decide otherwise."""
    for known in range(VERSION + 1):
        story = founded(known) if known else Story()
        reason = premature(story.state, load(task=task), SINCE)
        assert (reason is None) == (known >= since), (known, reason)
    assert "task classify: it needs cluster version 3" in str(
        premature(founded(2).state, load(task="classify"), SINCE)
    )
