"""No decision waits behind one of another aggregate that can't be appended."""

import asyncio
from typing import Any

from nebula.actors.placement.decision import Decision
from nebula.actors.router.actor import Router
from nebula.actors.router.backlog import ANSWERS, LONGEST_PAUSE, PAUSE, Backlog
from nebula.events.state import EMPTY
from nebula.events.vocabulary import Event, EventRejected, ModelUnloaded, NodeLost
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Conflict, TooLarge

PLAN = Decision("chat", ModelUnloaded(), 7)
OTHER = Decision("other", ModelUnloaded(), 8)
LOST = Decision("n1", NodeLost("silent"), 9)


def answer(seq: int) -> Decision:
    return Decision(str(seq), EventRejected("subject", "reason"), seq)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_all_that_is_due_is_tried_in_its_order() -> None:
    assert Backlog(Clock()).next((PLAN, answer(1), LOST)) == (PLAN, answer(1), LOST)


def test_what_was_not_taken_stands_back_for_a_growing_pause() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    for turn in range(12):
        backlog.stand_back(PLAN)
        pause = min(PAUSE * 2**turn, LONGEST_PAUSE)
        clock.now += pause - 0.01
        assert backlog.next((PLAN, OTHER)) == (OTHER,)
        clock.now += 0.01
        assert backlog.next((PLAN, OTHER)) == (PLAN, OTHER)


def test_what_will_never_be_taken_is_dropped_until_something_else_calls_for_it() -> None:
    backlog = Backlog(Clock())
    backlog.drop(PLAN)
    assert backlog.next((PLAN, OTHER)) == (OTHER,)
    again = Decision("chat", ModelUnloaded(), 70)
    assert backlog.next((again,)) == (again,)


def test_what_is_no_longer_due_is_forgotten() -> None:
    backlog = Backlog(Clock())
    backlog.stand_back(PLAN)
    backlog.drop(OTHER)
    assert backlog.next(()) == ()
    assert backlog.next((PLAN, OTHER)) == (PLAN, OTHER)


def test_a_flood_of_rejected_entries_is_answered_in_turns() -> None:
    flood = tuple(answer(seq) for seq in range(1, 1000))
    assert Backlog(Clock()).next((PLAN, *flood)) == (PLAN, *flood[:ANSWERS])


def test_answers_that_failed_do_not_keep_later_ones_from_their_turn() -> None:
    backlog = Backlog(Clock())
    flood = tuple(answer(seq) for seq in range(1, 100))
    for each in flood[:ANSWERS]:
        backlog.stand_back(each)
    assert backlog.next(flood) == flood[ANSWERS : 2 * ANSWERS]


# The router


class Log:
    """A log that refuses some decisions with a given error, and keeps the others."""

    def __init__(self, refuses: dict[str, Exception]) -> None:
        self.refuses = refuses
        self.kept: list[str] = []

    async def append(self, identity: str, event: Event, **_: Any) -> int:
        if identity in self.refuses:
            raise self.refuses[identity]
        self.kept.append(identity)
        return len(self.kept)


def appended(due: tuple[Decision, ...], refuses: dict[str, Exception]) -> tuple[Log, Router]:
    async def run() -> tuple[Log, Router]:
        router = Router(Connection("nats://127.0.0.1:1", "test"))
        log = Log(refuses)

        async def reached(seq: int, timeout: float | None = None) -> bool:
            return True

        router.log = log  # type: ignore[assignment]
        router.projection.reached = reached  # type: ignore[method-assign]
        router.connection.client._status = router.connection.client.CONNECTED
        await router._append_all(EMPTY, due)
        return log, router

    return asyncio.run(run())


def test_one_that_is_too_large_is_given_up_and_all_others_are_appended() -> None:
    log, router = appended((PLAN, answer(1), LOST), {"chat": TooLarge("8 MiB")})
    assert log.kept == ["1", "n1"]
    assert router._backlog.next((PLAN, LOST)) == (LOST,)


def test_one_that_gets_no_answer_stands_back_and_all_others_are_appended() -> None:
    log, router = appended((PLAN, OTHER, answer(1), LOST), {"chat": Unavailable("timeout")})
    assert log.kept == ["other", "1", "n1"]
    assert router._backlog.next((PLAN, OTHER)) == (OTHER,)


def test_a_conflict_over_models_holds_back_no_decision_about_nodes() -> None:
    log, _ = appended((PLAN, OTHER, answer(1), LOST), {"chat": Conflict("first")})
    assert log.kept == ["1", "n1"]
