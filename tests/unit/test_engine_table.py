"""What a node knows of its engines, and when it looks at them again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.node.engine_table import EngineEntry, EngineTable, service
from nebula.actors.node.reconciliation import Restarts, Start, Stop
from nebula.events.intents import ModelLoadRequested
from nebula.events.state import EMPTY, Engine, Model, Node, Replica, State
from nebula.events.vocabulary import EngineFailed, EngineStarted

REPLICA = Replica(
    id="chat-0", model="chat", node="alpha", devices=(0,), memory=1, version=3, changed=7
)
RUNNING = replace(
    REPLICA,
    phase="starting",
    engine=Engine(pid=9, created=1.0, port=8001, log_file="/log", version=3, started=0),
)
STATE: State = replace(
    EMPTY,
    nodes=HashTrieMap({"alpha": Node(id="alpha", devices=())}),
    models=HashTrieMap(
        {
            "chat": Model(
                id="chat", name="chat", spec=ModelLoadRequested("/m"), adapters={}, requested_seq=1
            )
        }
    ),
)


def opened() -> tuple[EngineTable[EngineEntry], EngineEntry]:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=2, pause=5.0))
    entry = EngineEntry(REPLICA, REPLICA.version, 1)
    roster.open(entry)
    return roster, entry


def test_an_engine_is_known_from_its_start_until_nothing_is_left_of_it() -> None:
    roster, entry = opened()
    assert entry.last_seq == 7
    assert roster.due(STATE, [REPLICA], 0.0) == ()
    assert entry.started(9, 1.0, 8001, "/log") == EngineStarted(9, 1.0, 8001, "/log", 3, 1)
    entry.has_told(8)
    assert entry.running.told
    entry.noted(9)
    entry.answers(2.0)
    assert (entry.running.ready, entry.last_seq) == (True, 9)
    assert not entry.ended()
    assert (entry.running.ready, entry.running.told) == (False, False)
    assert list(roster) == [entry]
    roster.close(entry)
    assert not roster
    assert roster.due(STATE, [REPLICA], 3.0) == (Start("chat-0", 1),)


def test_while_the_log_does_not_have_its_start_it_is_not_taken_for_one_that_ended() -> None:
    roster, entry = opened()
    assert roster.due(STATE, [REPLICA], 0.0) == ()
    entry.has_told(8)
    assert roster.due(STATE, [RUNNING], 0.0) == ()
    (stop,) = roster.due(STATE, [replace(REPLICA, phase="failed")], 0.0)
    assert isinstance(stop, Stop)


def test_an_end_that_the_log_could_not_take_is_none_that_it_tells() -> None:
    _, entry = opened()
    entry.has_told(0)  # the node had to end before
    assert not entry.running.told


def test_it_is_told_to_end_once() -> None:
    _, entry = opened()
    assert entry.stop("first")
    assert not entry.stop("second")
    assert entry.stop_reason == "first"
    assert entry.ended()


def test_a_failure_is_followed_by_a_pause_and_the_last_one_by_none() -> None:
    roster, entry = opened()
    told = roster.failed(entry, 1, "no", ("line",), 10.0)
    assert told == EngineFailed("no", 1, ("line",), 1, 5.0)
    roster.close(entry)
    failed = replace(REPLICA, phase="failed", attempt=1, retry_in=5.0)
    assert roster.due(STATE, [failed], 14.9) == ()
    assert roster.pause(10.0, 11.0) == pytest.approx(4.01)
    assert roster.pause(10.0, 11.0, [12.0]) == pytest.approx(1.01)
    assert roster.due(STATE, [failed], 15.0) == (Start("chat-0", 2),)
    again = EngineEntry(failed, 3, 2)
    roster.open(again)
    assert roster.pause(15.0, 15.0) is None
    assert roster.failed(again, 1, "no", (), 16.0).retry_in is None


def test_failures_that_the_log_lacks_count_and_the_last_of_them_ends_the_starts() -> None:
    """The log still has the engine as ready: its disk is full."""
    roster, entry = opened()
    assert roster.failed(entry, -9, "killed", (), 0.0).attempt == 1
    roster.close(entry)
    assert roster.due(STATE, [RUNNING], 1000.0) == (Start("chat-0", 2),)
    entry = EngineEntry(RUNNING, 3, 2)
    roster.open(entry)
    given_up = roster.failed(entry, -9, "killed", (), 0.0)
    assert given_up.retry_in is None
    roster.close(entry)
    assert roster.due(STATE, [RUNNING], 1e9) == ()
    assert roster.pause(0.0, 0.0) is None
    roster.has_told_failure(given_up, "chat-0")
    # It was requested again, which the log has after the failure.
    assert roster.due(STATE, [REPLICA], 1e9) == (Start("chat-0", 1),)


def test_a_start_that_is_told_after_its_end_does_not_run() -> None:
    _, entry = opened()
    entry.ended()
    entry.has_told(9)
    assert not entry.running.told
    assert entry.last_seq == 9


def test_one_that_served_for_long_has_all_its_attempts_again() -> None:
    roster, entry = opened()
    entry.attempt = 2
    entry.answers(100.0)
    told = roster.failed(entry, -9, "killed", (), 100.0 + Restarts().settled)
    assert (told.attempt, told.retry_in) == (1, 5.0)


def fails(
    roster: EngineTable[EngineEntry], attempt: int, served: float | None, took: float = 25.0
) -> EngineFailed:
    """Let the replica's next engine fail, after so many seconds of service; None: as it started."""
    entry = EngineEntry(REPLICA, REPLICA.version, attempt)
    roster.open(entry)
    if served is not None:
        entry.answers(100.0, took=took)
    told = roster.failed(entry, -9, "killed", (), 100.0 + (served or 0.0))
    roster.has_told_failure(told, "chat-0")
    roster.close(entry)
    return told


def test_an_engine_that_was_ready_is_never_given_up_and_waits_longer_each_time() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=2, longest=20.0))
    told = [fails(roster, 1, 41.0), *(fails(roster, 2, 41.0) for _ in range(6))]
    assert [each.retry_in for each in told] == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert {each.attempt for each in told} == {1}


def test_one_that_served_for_twice_as_long_as_its_start_took_waits_shortly_again() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts())
    pauses = [fails(roster, 2, served).retry_in for served in (49.9, 49.9, 50.0, 49.9)]
    assert pauses == [2.0, 4.0, 1.0, 2.0]


def test_starts_that_fail_are_counted_from_the_last_engine_that_was_ready() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=3))
    for _ in range(5):
        fails(roster, 3, 5.0)
    told = [fails(roster, attempt, None) for attempt in (2, 3)]
    assert [each.attempt for each in told] == [2, 3]
    assert [each.retry_in is None for each in told] == [False, True]


def test_another_plan_begins_with_the_shortest_pause() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts())
    fails(roster, 1, 5.0)
    assert fails(roster, 2, 5.0).retry_in == 2.0
    roster.due(STATE, [replace(REPLICA, version=REPLICA.version + 1)], 1000.0)
    assert fails(roster, 1, 5.0).retry_in == 1.0


def test_with_a_limit_of_one_nothing_is_started_again() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=1))
    assert fails(roster, 1, 1000.0).retry_in is None


def test_an_adopted_engine_has_served_as_long_as_the_log_says() -> None:
    second = 10**9
    engine = Engine(
        pid=9, created=1.0, port=8001, log_file="/log", version=3, started=1000 * second
    )
    ready = replace(REPLICA, phase="ready", engine=engine, since=1050 * second, attempt=2)
    served, took = service(ready, 1200.0)
    assert (served, took) == (150.0, 50.0)
    assert service(ready, 1000.0) == (0.0, 50.0)  # its clock is behind the log's
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=2))
    entry = EngineEntry(ready, 3, 2)
    roster.adopt(entry, ready=True, now=5.0, served=served, took=took)
    assert roster.failed(entry, None, "killed", (), 6.0).retry_in == 1.0


def test_an_adopted_engine_goes_on_where_it_was() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts())
    entry = EngineEntry(RUNNING, 3, 2)
    roster.adopt(entry, ready=False, now=5.0)
    assert roster.due(STATE, [RUNNING], 5.0) == ()
    assert (entry.running.told, entry.running.ready) == (True, False)
    served = EngineEntry(RUNNING, 3, 2)
    roster.adopt(served, ready=True, now=5.0)
    assert (served.running.ready, served.ready_since) == (True, 5.0)


def test_of_one_replica_one_adapter_is_changed_after_the_other() -> None:
    roster, _ = opened()
    assert roster.adapts("chat-0")
    assert not roster.adapts("chat-0")
    assert roster.adapts("chat-1")
    roster.adapted("chat-0")
    assert roster.adapts("chat-0")


@pytest.mark.parametrize(
    ("looked", "now", "others", "pause"),
    [
        (0.0, 0.0, (), 9.0),  # a start is due at 9
        (0.0, 8.0, (), 1.0),
        (8.0, 9.5, (), 0.0),  # it came due since the node has looked
        (9.0, 9.5, (), None),  # it was due when the node looked
        (0.0, 2.0, (5.0, 12.0), 3.0),
        (0.0, 2.0, (12.0,), 7.0),
        (9.0, 9.5, (9.0, 12.0), 2.5),
        (9.0, 9.5, (float("inf"),), None),
    ],
)
def test_a_node_looks_again_when_something_comes_due_that_was_not_when_it_looked(
    looked: float, now: float, others: tuple[float, ...], pause: float | None
) -> None:
    roster, entry = opened()
    roster.failed(entry, 1, "no", (), 4.0)  # its pause is 5 s
    assert roster.pause(looked, now, others) == (None if pause is None else pause + 0.01)


def test_what_the_log_never_takes_leaves_the_last_event_that_it_has() -> None:
    _, entry = opened()
    entry.noted(8)
    entry.noted(0)
    assert entry.last_seq == 8
    entry.has_told(0)
    assert (entry.last_seq, entry.running.told) == (8, False)


def test_a_failure_that_is_told_late_says_nothing_of_the_next_one() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=9, pause=5.0))
    replica = replace(REPLICA, attempt=0)
    failures = []
    for attempt in (1, 2):
        entry = EngineEntry(REPLICA, REPLICA.version, attempt)
        roster.open(entry)
        failures.append(roster.failed(entry, 1, "no", (), 0.0))
        roster.close(entry)
    roster.has_told_failure(failures[0], "chat-0")
    assert roster.due(STATE, [replica], 99.0) == (Start("chat-0", 3),)
    roster.has_told_failure(failures[1], "chat-0")
    assert roster.due(STATE, [replica], 99.0) == (
        Start("chat-0", 1),
    )  # the log says how it goes on


def test_a_pause_is_over_at_its_end_and_not_before() -> None:
    roster, entry = opened()
    roster.failed(entry, 1, "no", (), 4.0)
    roster.close(entry)
    assert roster.due(STATE, [REPLICA], 8.9) == ()
    assert roster.due(STATE, [REPLICA], 9.0) == (Start("chat-0", 2),)


def test_a_failure_that_is_told_ends_no_pause_but_that_of_the_replica_that_is_given_up() -> None:
    roster, entry = opened()
    told = roster.failed(entry, 1, "no", (), 4.0)
    roster.close(entry)
    roster.has_told_failure(told, "chat-0")
    assert roster.due(STATE, [REPLICA], 8.0) == ()
    roster.open(entry)
    told = roster.failed(entry, 1, "no", (), 9.0, again=False)
    roster.close(entry)
    assert roster.due(STATE, [REPLICA], 1e9) == ()
    roster.has_told_failure(told, "chat-0")
    assert roster.due(STATE, [REPLICA], 9.0) == (Start("chat-0", 1),)  # once it is asked for again


def test_that_it_was_given_up_is_told_late_and_ends_no_pause_of_the_next_start() -> None:
    roster, entry = opened()
    given_up = roster.failed(entry, 1, "no", (), 0.0, again=False)
    entry = EngineEntry(REPLICA, REPLICA.version, 1)  # it was requested again
    roster.open(entry)
    roster.failed(entry, 1, "no", (), 4.0)
    roster.close(entry)
    roster.has_told_failure(given_up, "chat-0")
    assert not roster.due(STATE, [REPLICA], 8.0)
    assert roster.due(STATE, [REPLICA], 9.0)
