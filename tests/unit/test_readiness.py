"""What a gateway concludes of what it sees: whether it is ready, and why it is not."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from nats.js.api import ClusterInfo, PeerInfo, StreamConfig, StreamInfo, StreamState

from nebula.actors.gateway.readiness import (
    BEHIND,
    FAILURE_LASTS,
    LOOK_LASTS,
    ROUTER_SILENCE,
    Failure,
    Seen,
    log_refuses,
    readiness,
    standing_failure,
)
from nebula.events.heartbeats import StoreHeartbeat
from nebula.store.reach import WORD_LASTS, Reach, told_by

NOW = 1000.0
WELL = Seen(
    NOW,
    started=True,
    connected=True,
    since=0.0,
    router_at=NOW - 1,
    reach=Reach(7),
    reach_at=NOW - 2,
    seq=7,
)
FULL = StoreHeartbeat("/s", "/data", refused="the log's disk /data is full")


def test_one_that_hears_a_router_and_whose_log_answers_is_ready() -> None:
    found = readiness(WELL)
    assert found.reasons == ()
    assert found.warnings == ()


def test_one_that_has_just_started_says_what_it_waits_for() -> None:
    assert readiness(replace(WELL, started=False)).reasons == ("the log is being read",)
    (asking,) = readiness(replace(WELL, reach=None)).reasons
    assert "being asked" in asking
    assert readiness(replace(WELL, connected=False)).reasons == ("NATS can't be reached",)
    (reason,) = readiness(replace(WELL, router_at=None)).reasons
    assert "no router has been heard yet" in reason


@given(st.floats(0, 100))
def test_routers_that_are_silent_for_some_seconds_are_a_reason(silent: float) -> None:
    found = readiness(replace(WELL, router_at=NOW - silent))
    assert bool(found.reasons) == (NOW - (NOW - silent) > ROUTER_SILENCE)


def test_after_a_reconnection_routers_have_their_time_again() -> None:
    assert readiness(replace(WELL, router_at=NOW - 50, since=NOW - 2)).reasons == ()


def test_the_stores_own_word_goes_before_what_is_concluded() -> None:
    seen = replace(
        WELL,
        store=FULL,
        store_at=NOW - 1,
        reach=Reach(refused="the log does not answer"),
        failure=Failure(NOW - 1, "no acknowledgement", 7),
    )
    assert readiness(seen).reasons == (FULL.refused,)
    assert log_refuses(replace(seen, store_at=NOW - WORD_LASTS - 1)) == "the log does not answer"


def test_without_a_quorum_or_a_look_it_is_not_ready() -> None:
    assert readiness(replace(WELL, reach=Reach(refused="no leader"))).reasons == ("no leader",)
    (reason,) = readiness(replace(WELL, reach_at=NOW - LOOK_LASTS - 1)).reasons
    assert "not been asked" in reason


def test_a_change_that_failed_counts_until_an_event_or_time_speaks_against_it() -> None:
    failure = Failure(NOW - 3, "JetStream does not take events", 7)
    seen = replace(WELL, failure=failure)
    assert readiness(seen).reasons == (failure.reason,)
    assert standing_failure(replace(seen, seq=8)) is None
    assert standing_failure(replace(seen, now=NOW + FAILURE_LASTS)) is None
    healed = StoreHeartbeat("/s", "/data")
    assert standing_failure(replace(seen, store=healed, store_at=NOW - 3)) == failure
    later = replace(seen, now=NOW + 4, store=healed, store_at=NOW + 4)
    assert standing_failure(later) is None


def test_one_that_is_behind_for_long_says_so() -> None:
    behind = replace(WELL, reach=Reach(9), behind_since=NOW - BEHIND - 1)
    (reason,) = readiness(behind).reasons
    assert "up to event 7 of 9" in reason
    assert readiness(replace(behind, behind_since=NOW - 1)).reasons == ()
    assert readiness(replace(behind, seq=9)).reasons == ()


def test_warnings_do_not_make_it_unready() -> None:
    nearly = StoreHeartbeat("/s", "/data", warning="nearly full")
    seen = replace(WELL, store=nearly, store_at=NOW, reach=Reach(7, warning="a copy is gone"))
    found = readiness(seen)
    assert found.reasons == ()
    assert found.warnings == ("nearly full", "a copy is gone")


def stream(copies: int, *others: PeerInfo, leader: str = "n1", **config: Any) -> StreamInfo:
    """Make a stream's answer as its leader gives it."""
    return StreamInfo(
        config=StreamConfig(name="NEBULA_EVENTS", num_replicas=copies, **config),
        state=StreamState(messages=3, bytes=95, first_seq=1, last_seq=3, consumer_count=0),
        cluster=ClusterInfo(leader=leader, replicas=list(others)),
    )


def peer(name: str, silent: float = 0.1, *, offline: bool = False) -> PeerInfo:
    """Make another copy, heard `silent` seconds ago."""
    return PeerInfo(name=name, current=True, offline=offline, active=int(silent * 1e9))


def test_a_leader_that_hears_too_few_copies_can_take_nothing() -> None:
    assert told_by(stream(3, peer("n2"), peer("n3"))) == Reach(3)
    one_gone = told_by(stream(3, peer("n2"), peer("n3", 60)))
    assert one_gone.refused == ""
    assert "n3" in one_gone.warning
    for gone in (peer("n3", 60), peer("n3", offline=True)):
        alone = told_by(stream(3, peer("n2", 6), gone))
        assert alone.refused == "only 1 of the log's 3 copies can be reached"
    assert "no leader" in told_by(stream(3, peer("n2"), peer("n3"), leader="")).refused
    assert told_by(stream(1)) == Reach(3)


def test_a_stream_near_its_own_limit_is_told() -> None:
    assert "max_bytes" in told_by(stream(1, max_bytes=100)).warning
    assert told_by(stream(1, max_bytes=1000)).warning == ""
