"""Under which conditions decisions of one state are appended, one after the other."""

from __future__ import annotations

from nebula.actors.placement.decision import Decision
from nebula.actors.router.guards import AppendGuard, Guards
from nebula.events import subjects
from nebula.events.vocabulary import EventRejected, ModelSlept, NodeHeard, NodeLost
from nebula.store.log import Guard
from tests.unit.story import cluster, load

SLEEPS = Decision("chat", ModelSlept("idle"), 1)
OTHER = Decision("other", ModelSlept("idle"), 1)
LOST = Decision("alpha", NodeLost("silent"), 1)
HEARD = Decision("alpha", NodeHeard("heard"), 1)
ANSWER = Decision("7", EventRejected("nebula.events.x", "no"), 7)


def guards() -> Guards:
    return Guards(cluster(alpha=[80]).given("chat", load()).state)


def test_a_decision_is_guarded_by_what_it_concerns() -> None:
    held = guards()
    assert held.of(SLEEPS).guard == Guard(subjects.MODEL_EVENTS, 2)
    assert held.of(LOST).guard == held.of(HEARD).guard == Guard(subjects.NODE_EVENTS, 1)
    assert held.of(ANSWER) == AppendGuard(None, "rejected-7")


def test_a_decision_that_is_appended_is_in_the_way_of_no_other_one() -> None:
    held = guards()
    held.appended(held.of(SLEEPS), 9)
    assert held.of(OTHER).guard == Guard(subjects.MODEL_EVENTS, 9)
    assert held.of(LOST).guard == Guard(subjects.NODE_EVENTS, 1)


def test_where_another_router_was_first_all_that_it_concerns_is_decided_anew() -> None:
    held = guards()
    held.lost(SLEEPS)
    assert [held.hold(each) for each in (SLEEPS, OTHER, LOST, ANSWER)] == [False, False, True, True]
    held.lost(ANSWER)
    assert held.hold(ANSWER), "its message id alone guards it"
