"""When a router decides: once upon a state, and upon what it sees when it is told to look."""

from __future__ import annotations

from nebula.actors.placement.decision import Decision
from nebula.actors.router.observer import ModelLoad, Observer
from nebula.actors.router.pending_decisions import PendingDecisions
from nebula.events.vocabulary import ModelAssigned, NodeLost, NodeSuspected
from tests.unit.story import Story, cluster, load


class Router:
    """A router with a clock of its own, which hears no other."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.clock = 1000.0
        loads: dict[str, ModelLoad] = {}
        self.observer = Observer("r1", lambda: self.clock)
        self.deciding = PendingDecisions(self.observer, lambda: loads, lost_after=5.0)

    def silence(self, seconds: int) -> None:
        for _ in range(seconds):
            self.observer.observe(self.story.state, {})
            self.clock += 1

    def due(self, *, connected: bool = True) -> tuple[Decision, ...]:
        return self.deciding.due(self.story.state, connected=connected)

    def appended(self, due: tuple[Decision, ...]) -> None:
        for each in due:
            self.story.given(each.id, each.event)


def test_a_decision_is_due_until_it_is_appended_and_nothing_is_decided_twice() -> None:
    router = Router(cluster(alpha=[80]).given("chat", load(memory="8GiB")))
    due = router.due()
    assert [type(each.event) for each in due] == [ModelAssigned]
    assert router.due() == due
    router.appended(due)
    assert router.due() == ()
    assert router.due() == ()


def test_what_is_seen_counts_only_when_it_is_told_to_look() -> None:
    router = Router(cluster(alpha=[80]))
    assert router.due() == ()
    router.silence(7)
    assert router.due() == ()
    router.deciding.look()
    assert [type(each.event) for each in router.due()] == [NodeSuspected]


def test_a_node_without_a_voucher_is_lost_once_there_was_time_to() -> None:
    router = Router(cluster(alpha=[80]))
    router.due()
    router.silence(7)
    router.deciding.look()
    router.appended(router.due())
    router.deciding.look()
    assert router.due() == (), "it has been asked this very moment"
    router.silence(2)
    router.deciding.look()
    assert [type(each.event) for each in router.due()] == [NodeLost]


def test_after_a_decision_upon_what_is_seen_it_looks_once_more_by_itself() -> None:
    story = cluster(alpha=[80], beta=[80])
    router = Router(story)
    assert router.due() == ()
    router.silence(7)
    router.deciding.look()
    asked = router.due()
    assert [each.id for each in asked] == ["alpha", "beta"]
    router.appended(asked[:1])  # another router was quicker about the second
    assert [each.id for each in router.due()] == ["beta"]
    router.appended(asked[1:])
    assert router.due() == ()
    assert router.due() == ()


def test_a_router_that_is_cut_off_concludes_nothing_from_silence_but_decides_upon_the_state() -> (
    None
):
    router = Router(cluster(alpha=[80]).given("chat", load(memory="8GiB")))
    router.silence(7)
    router.deciding.look()
    assert [type(each.event) for each in router.due(connected=False)] == [ModelAssigned]
    router.appended(router.due(connected=False))
    assert router.due(connected=False) == ()
