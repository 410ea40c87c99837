"""A gateway's leases: what it sends directly, where to, and when it asks a router instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.gateway import leasing
from nebula.actors.gateway.addressing import Known
from nebula.actors.gateway.leasing import REPORTS, Direct, Leases
from nebula.actors.router import routing
from nebula.actors.router.prefixes import digests
from nebula.events.cache_news import CacheNews
from nebula.events.inference import Request
from nebula.events.leases import TERM, Lease, LeasesAsked, LeasesGranted
from nebula.events.state import State
from nebula.events.vocabulary import EngineFailed
from tests.unit.flights import serving

ROUTERS = (Known("r1", 0.0, addressed=True), Known("r2", 0.0, addressed=True))
REQUEST = Request("r", "gw", "chat", "/v1/completions", b"{}")


class Gateway:
    """A gateway's leases of `chat`, with a clock that is set by hand."""

    def __init__(self, replicas: int = 2) -> None:
        self.story = serving(replicas)
        self.now = 0.0
        self.leases = Leases("gw")
        self.leases.asks = True

    @property
    def state(self) -> State:
        return self.story.state

    def take(self, request: Request = REQUEST) -> Direct | None:
        return self.leases.take(request, self.state, self.now)

    def report(self) -> tuple[str, LeasesAsked]:
        """Return the one report that is due."""
        for each in ROUTERS:
            each.at = self.now
        [told] = self.leases.reports(ROUTERS, self.now)
        return told

    def lend(self, *given: int, others: int = 0, late: float = 0.0) -> str:
        """Let a router answer the report that is due with credits for each replica."""
        router, asked = self.report()
        self.now += late
        self.answer(router, asked.serial, *given, others=others)
        return router

    def answer(self, router: str, serial: int, *given: int, others: int = 0) -> None:
        leases = tuple(
            Lease(each.id, each.version, many, others)
            for each, many in zip(
                self.state.replicas_of(self.state.models["chat"]), given, strict=True
            )
        )
        answer = LeasesGranted(serial, {"chat": leases})
        self.leases.granted(router, answer, self.state, self.now)

    def lent(self, *given: int) -> Gateway:
        """Let it have asked, and got credits."""
        assert self.take() is None, "the first request asks a router"
        self.lend(*given)
        return self


def test_the_first_request_asks_a_router_and_the_next_goes_directly() -> None:
    gateway = Gateway().lent(2, 2)
    direct = gateway.take()
    assert direct is not None
    assert direct.plan == gateway.state.replicas[direct.replica].version
    assert direct.routed.gateway == "gw"
    assert direct.routed.router == direct.router
    assert {each.replica for each in direct.routed.candidates} == {"chat-0", "chat-1"}
    assert gateway.leases.in_flight == 1
    gateway.leases.release(direct)
    assert gateway.leases.in_flight == 0


def test_no_more_go_directly_at_a_time_than_there_are_credits() -> None:
    gateway = Gateway(1).lent(2)
    first, second = gateway.take(), gateway.take()
    assert first is not None
    assert second is not None
    assert gateway.take() is None
    gateway.leases.release(first)
    assert gateway.take() is not None


def test_a_lease_ends_with_its_term_from_when_it_was_asked_for() -> None:
    gateway = Gateway(1)
    gateway.take()
    gateway.lend(5, late=TERM - 0.1)
    assert gateway.take() is not None
    gateway.now += 0.1
    assert gateway.take() is None


def test_an_answer_that_comes_after_its_term_is_passed_over() -> None:
    gateway = Gateway(1)
    gateway.take()
    gateway.lend(5, late=TERM)
    assert gateway.take() is None


def test_a_replica_that_serves_no_more_gets_nothing() -> None:
    gateway = Gateway(1).lent(5)
    gateway.story.given("chat-0", EngineFailed("it crashed", retry_in=1.0))
    assert gateway.take() is None


def test_a_lease_for_another_plan_is_not_used() -> None:
    gateway = Gateway(1)
    gateway.take()
    router, asked = gateway.report()
    other = LeasesGranted(asked.serial, {"chat": (Lease("chat-0", 99, 5),)})
    gateway.leases.granted(router, other, gateway.state, gateway.now)
    assert gateway.take() is None


def test_further_attempts_what_avoids_a_replica_and_slack_ask_a_router() -> None:
    gateway = Gateway(1).lent(5)
    assert gateway.take(replace(REQUEST, avoid="chat-0")) is None
    assert gateway.take(replace(REQUEST, attempt=2)) is None
    assert gateway.take(replace(REQUEST, slack=True)) is None


def test_nothing_goes_directly_while_a_request_of_the_gateway_waits_in_a_line() -> None:
    gateway = Gateway(1).lent(5)
    gateway.leases.waits(replace(REQUEST, id="slack", slack=True))
    assert gateway.take() is not None, "slack may be passed"
    gateway.leases.waits(replace(REQUEST, id="w"))
    assert gateway.take() is None
    gateway.leases.waits_no_more(replace(REQUEST, id="w"))
    assert gateway.take() is not None


def test_what_is_recalled_is_given_back_at_once() -> None:
    gateway = Gateway(1).lent(5)
    assert gateway.take() is not None
    [(router, asked)] = gateway.leases.recalled("chat", gateway.now)
    wanted = asked.models["chat"]
    assert wanted.least == asked.serial
    assert wanted.most == 0
    assert wanted.in_flight == {"chat-0": 1}
    assert gateway.take() is None
    gateway.answer(router, asked.serial - 1, 5)
    assert gateway.take() is None, "an answer from before is used no more"
    assert gateway.leases.recalled("poet", gateway.now) == []


def test_what_is_lent_again_after_a_recall_is_used() -> None:
    gateway = Gateway(1).lent(5)
    gateway.leases.recalled("chat", gateway.now)
    assert gateway.take() is None
    gateway.now += REPORTS
    gateway.lend(5)
    assert gateway.take() is not None


def test_after_an_attempt_that_failed_a_new_answer_is_awaited() -> None:
    gateway = Gateway(1).lent(5)
    direct = gateway.take()
    assert direct is not None
    gateway.leases.doubt(direct)
    assert gateway.take() is None
    gateway.now += REPORTS
    _, asked = gateway.report()
    assert asked.models["chat"].least == asked.serial


def test_a_router_that_is_not_the_one_asked_lends_nothing() -> None:
    gateway = Gateway(1)
    gateway.take()
    router, asked = gateway.report()
    gateway.answer("r2" if router == "r1" else "r1", asked.serial, 5)
    assert gateway.take() is None


def test_a_router_that_is_heard_no_more_is_not_used_and_another_one_asked() -> None:
    gateway = Gateway(1).lent(5)
    assert gateway.take() is not None
    gateway.now += REPORTS
    first = leasing.granter(ROUTERS, "chat", 0.0)
    left = [each for each in ROUTERS if each.name != first]
    [(other, asked)] = gateway.leases.reports(left, gateway.now)
    assert other != first
    assert asked.models["chat"].in_flight == {"chat-0": 1}
    assert gateway.take() is None


def test_a_gateway_reports_what_it_had_at_a_time_and_what_it_lacked() -> None:
    gateway = Gateway(1).lent(2)
    taken = [gateway.take() for _ in range(3)]
    for each in taken:
        if each is not None:
            gateway.leases.release(each)
    assert gateway.leases.most == 2
    gateway.now += REPORTS
    _, asked = gateway.report()
    assert asked.models["chat"].most == 3
    assert asked.models["chat"].in_flight == {}


def test_a_model_that_is_asked_for_no_more_is_given_back_and_forgotten() -> None:
    gateway = Gateway(1).lent(2)
    gateway.now += REPORTS
    _, asked = gateway.report()
    assert asked.models["chat"].most == 0
    assert asked.models["chat"].least == asked.serial
    gateway.now += REPORTS
    assert gateway.leases.reports(ROUTERS, gateway.now) == []
    assert gateway.leases.idle


def test_a_prompt_goes_where_its_beginning_has_been() -> None:
    gateway = Gateway(2).lent(9, 9)
    request = replace(REQUEST, prefix=digests(b"x" * 1024))
    gateway.leases.learn(request, "chat-1")
    other = replace(REQUEST, prefix=digests(b"y" * 1024))
    gateway.leases.learn(other, "chat-0")
    for _ in range(3):
        direct = gateway.take(request)
        assert direct is not None
        assert direct.replica == "chat-1"


def test_a_gateway_hears_what_engines_got_from_others_and_have_evicted() -> None:
    gateway = Gateway(2).lent(9, 9)
    request = replace(REQUEST, prefix=digests(b"x" * 1024))
    first = gateway.take(request)
    assert first is not None
    other = "chat-1" if first.replica == "chat-0" else "chat-0"
    pids = {each.id: each.engine.pid for each in gateway.state.replicas.values() if each.engine}

    def tells(replica: str, pid: int, **news: tuple[str, ...]) -> None:
        told = CacheNews(replica=replica, pid=pid, serial=1, **news)  # type: ignore[arg-type]
        gateway.leases.caches(told, gateway.state)

    tells(other, pids[other] + 1, held=request.prefix)
    tells("chat-9", 1, held=request.prefix)
    again = gateway.take(request)
    assert again is not None
    assert again.replica == first.replica, "another engine has told, and one that is not there"
    tells(first.replica, pids[first.replica], gone=request.prefix)
    tells(other, pids[other], held=request.prefix)
    moved = gateway.take(request)
    assert moved is not None
    assert moved.replica == other


def test_where_the_replica_of_choice_has_no_credit_a_router_is_asked() -> None:
    gateway = Gateway(2).lent(9, 0)
    request = replace(REQUEST, prefix=digests(b"x" * 1024))
    gateway.leases.learn(request, "chat-1")
    assert gateway.take(request) is None


_LOADS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=5)


@given(_LOADS, st.text("abc", max_size=3), st.integers(0, 4))
def test_a_gateway_chooses_as_a_router_that_knows_the_same(
    loads: list[tuple[int, int]], key: str, prefix: int
) -> None:
    leases = [Lease(f"chat-{n}", 1, 99, load, waits) for n, (load, waits) in enumerate(loads)]
    seen = {"chat-0": 256 << prefix} if prefix else {}
    found = leasing.candidates(leases, {"chat-0": 1}, seen, 256)
    chosen = routing.choose(found, key, 1000)
    assert chosen == routing.choose(found, key, 1000)
    again = [replace(each, in_flight=each.in_flight) for each in reversed(found)]
    assert routing.choose(again, key, 1000) == chosen
    assert [each.in_flight for each in found] == [
        load + (number == 0) for number, (load, _) in enumerate(loads)
    ]


def test_all_gateways_ask_the_same_router_for_a_model() -> None:
    assert leasing.granter(ROUTERS, "chat", 0.0) == leasing.granter(ROUTERS[::-1], "chat", 0.0)
    assert {leasing.granter(ROUTERS, f"m{number}", 0.0) for number in range(20)} == {"r1", "r2"}
    assert leasing.granter(ROUTERS, "chat", 99.0) == ""


def test_a_gateway_that_asks_for_no_leases_keeps_nothing_of_its_requests() -> None:
    gateway = Gateway()
    gateway.leases.asks = False
    assert gateway.take() is None
    gateway.leases.waits(REQUEST)
    assert gateway.leases.idle
    assert gateway.leases.reports(ROUTERS, gateway.now) == []


def test_a_gateway_counts_what_it_sent_each_way_and_tells_a_router_of_it_once() -> None:
    gateway = Gateway(1).lent(2)
    for _ in range(3):
        gateway.take()
    gateway.take(replace(REQUEST, attempt=2))
    sent = gateway.leases.sent["chat"]
    assert (sent.directly, sent.by_routers) == (2, 3)
    told = []
    for _ in range(2):
        gateway.now += REPORTS
        _, asked = gateway.report()
        told.append(asked.models["chat"].sent)
    assert told == [2, 0]
    gateway.now += REPORTS
    gateway.lend(9)
    assert gateway.take() is not None
    [(_, asked)] = gateway.leases.recalled("chat", gateway.now)
    assert asked.models["chat"].sent == 1


def test_models_that_are_no_more_are_counted_no_more_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leasing, "COUNTED", 2)
    gateway = Gateway(1)
    for model in ("chat", "gone", "other"):
        gateway.take(replace(REQUEST, model=model))
    assert gateway.leases.sent.keys() == {"chat", "other"}
