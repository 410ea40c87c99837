"""What a node knows of its engines, and when it looks at them again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.node.reconciliation import Restarts, Start, Stop
from nebula.actors.node.roster import Entry, Roster
from nebula.events.intents import ModelLoadRequested
from nebula.events.state import EMPTY, Engine, Model, Replica, State
from nebula.events.vocabulary import EngineFailed, EngineStarted

REPLICA = Replica("chat-0", "chat", "alpha", (0,), 1, version=3, changed=7)
RUNNING = replace(REPLICA, phase="starting", engine=Engine(9, 1.0, 8001, "/log", 3, 0))
STATE: State = replace(
    EMPTY, models=HashTrieMap({"chat": Model("chat", "chat", ModelLoadRequested("/m"), {}, 1)})
)


def opened() -> tuple[Roster[Entry], Entry]:
    roster: Roster[Entry] = Roster(Restarts(limit=2, pause=5.0))
    entry = Entry(REPLICA, REPLICA.version, 1)
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
    again = Entry(failed, 3, 2)
    roster.open(again)
    assert roster.pause(15.0, 15.0) is None
    assert roster.failed(again, 1, "no", (), 16.0).retry_in is None


def test_failures_that_the_log_lacks_count_and_the_last_of_them_ends_the_starts() -> None:
    """The log still has the engine as ready: its disk is full."""
    roster, entry = opened()
    assert roster.failed(entry, -9, "killed", (), 0.0).attempt == 1
    roster.close(entry)
    assert roster.due(STATE, [RUNNING], 1000.0) == (Start("chat-0", 2),)
    entry = Entry(RUNNING, 3, 2)
    roster.open(entry)
    given_up = roster.failed(entry, -9, "killed", (), 0.0)
    assert given_up.retry_in is None
    roster.close(entry)
    assert roster.due(STATE, [RUNNING], 1e9) == ()
    assert roster.pause(0.0, 0.0) is None
    roster.has_told_failure(given_up, "chat-0")
    # Somebody has asked for it again, which the log has after the failure.
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


def test_an_adopted_engine_goes_on_where_it_was() -> None:
    roster: Roster[Entry] = Roster(Restarts())
    entry = Entry(RUNNING, 3, 2)
    roster.adopt(entry, ready=False, now=5.0)
    assert roster.due(STATE, [RUNNING], 5.0) == ()
    assert (entry.running.told, entry.running.ready) == (True, False)
    served = Entry(RUNNING, 3, 2)
    roster.adopt(served, ready=True, now=5.0)
    assert (served.running.ready, served.ready_since) == (True, 5.0)


def test_of_one_replica_one_adapter_is_changed_after_the_other() -> None:
    roster, _ = opened()
    assert roster.adapts("chat-0")
    assert not roster.adapts("chat-0")
    assert roster.adapts("chat-1")
    roster.adapted("chat-0")
    assert roster.adapts("chat-0")
