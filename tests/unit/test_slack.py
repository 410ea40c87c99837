"""Slack takes what is spare: behind what clients wait for, in free slots, and waking nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.router import slack
from nebula.actors.router.dispatch import UNPLACEABLE, Dispatch
from nebula.actors.router.lines import ONE_MODELS_PART, SLACK_PART, UNKNOWN_WAITING
from nebula.actors.router.observer import ROUTER_SILENCE
from nebula.actors.router.slack import CACHE, DOUBLES, TAKEN_BACK, Others, Spare
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.failures import Failure
from nebula.events.heartbeats import QueueLength, ReplicaHeartbeat
from nebula.events.inference import Finished, Piece, Request
from nebula.events.intents import ModelUnloadRequested
from nebula.events.memory import MIB
from nebula.events.record import parse_headers
from nebula.events.vocabulary import ModelWoken
from tests.unit.flights import JSON, Flights, chat, stream, words
from tests.unit.story import Story, cluster, load
from tests.unit.test_dispatch import Router, busy, serving
from tests.unit.test_observer import serving as observing

BESIDE = slack.share(256, 0)
"""Requests of slack beside those of clients, at a replica that says nothing of its slots."""

AGES = 100.0
"""Seconds without clients in which a replica comes to have as much slack as it may."""


def calm(replicas: int = 1, **limits: int) -> Router:
    """A router whose replicas have had no requests for long, as far as it hears."""
    router = Router(serving(replicas, **limits))
    for number in range(replicas):
        router.beats(f"chat-{number}")
    router.clock += AGES
    for number in range(replicas):
        router.beats(f"chat-{number}")
    return router


def ask_slack(router: Router, number: int, attempt: int = 1) -> list[str]:
    """Ask for so much slack; return what went to replicas at once."""
    before = len(router.order)
    for each in range(number):
        router.ask(f"s{each}", slack=True, attempt=attempt)
    return router.order[before:]


def taken_back(router: Router) -> list[str]:
    """The requests that a router has taken back, in order."""
    return [
        identity
        for identity, pieces in router.answers.items()
        if pieces[-1].failure == Failure.TAKEN_BACK
    ]


# Which goes first


def test_slack_goes_behind_every_request_of_a_client_whatever_their_priorities() -> None:
    router = busy(max_waiting=10)
    router.ask("slack", slack=True, priority=-100, patience=9000.0)
    router.ask("late", priority=100)
    router.finished("chat-0", "first-0")
    router.finished("chat-0", "late")
    router.later(AGES)
    assert router.order == ["late", "slack"]


def test_slack_waits_while_a_client_waits_for_that_model_in_another_router() -> None:
    router = calm()
    router.others = Others(1, waiting=True)
    assert ask_slack(router, 1) == []
    router.others = Others(1)
    router.later(0.1)
    assert router.order == ["s0"]


def test_keys_take_turns_among_slack_too() -> None:
    router = calm(max_in_flight=2)
    router.ask("client")
    router.ask("other")
    for number in range(3):
        router.ask(f"a{number}", slack=True, user="ann", patience=9000.0)
    router.ask("b0", slack=True, user="bob", patience=9000.0)
    router.finished("chat-0", "client", "other")
    router.later(AGES)
    for done in ("a0", "b0", "a1"):
        router.finished("chat-0", done, slack=True)
        router.later(AGES)
    assert router.order[2:] == ["a0", "b0", "a1", "a2"]


# Free slots


def test_a_replica_without_clients_gets_slack_up_to_its_reserve() -> None:
    router = calm(max_in_flight=16)
    assert len(ask_slack(router, 20)) == 14
    router.ask("client")
    assert router.order[-1] == "client"


def test_an_engine_that_was_told_to_work_on_fewer_at_once_gets_as_much_slack_as_that_leaves() -> (
    None
):
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", options={"max-num-seqs": 8}))
    story.settles()
    story.runs("chat-0")
    router = Router(story)
    router.beats("chat-0")
    router.clock += AGES
    router.beats("chat-0")
    assert len(ask_slack(router, 20)) == 7


def test_a_replica_with_clients_gets_a_little_slack_beside_them() -> None:
    router = calm()
    router.ask("client")
    assert len(ask_slack(router, 20)) == BESIDE


def test_a_small_replica_with_clients_gets_no_slack_until_they_have_been_gone_for_a_while() -> None:
    router = calm(max_in_flight=32)
    router.ask("client")
    assert ask_slack(router, 5) == []
    router.finished("chat-0", "client")
    router.later(DOUBLES / 2)
    assert router.order == ["client"]
    router.later(DOUBLES / 2)
    assert router.order == ["client", "s0"]
    router.ask("another")
    assert taken_back(router) == ["s0"]


def test_after_the_last_client_slack_comes_back_little_by_little() -> None:
    router = calm()
    router.ask("client")
    ask_slack(router, 40)
    router.finished("chat-0", "client", active=BESIDE, active_slack=BESIDE)
    assert len(router.order) == 1 + BESIDE
    router.later(DOUBLES)
    assert len(router.order) == 1 + 2 * BESIDE
    router.later(DOUBLES)
    assert len(router.order) == 1 + 4 * BESIDE


@pytest.mark.parametrize("told", [{"waiting": 1}, {"cache": CACHE + 0.01}])
def test_an_engine_that_is_full_as_it_says_gets_no_slack(told: dict[str, Any]) -> None:
    router = calm()
    router.beats("chat-0", **told)
    assert ask_slack(router, 1) == []
    router.beats("chat-0")
    assert router.order == ["s0"]


def test_slack_of_other_routers_does_not_count_as_requests_of_clients() -> None:
    router = calm()
    router.beats("chat-0", running=50, slack=50)
    assert len(ask_slack(router, 20)) == 20
    router.beats("chat-0", running=71, slack=70)
    router.later(0.1)
    router.ask("more", slack=True)
    assert router.order[-1] != "more"


def test_routers_divide_what_a_replica_may_have_of_it() -> None:
    router = calm(max_in_flight=16)
    router.others = Others(2)
    assert len(ask_slack(router, 20)) == 14 // 3


# Taking back


def test_a_client_that_comes_takes_the_place_of_the_newest_slack() -> None:
    router = calm()
    ask_slack(router, 10)
    assert taken_back(router) == []
    router.ask("client")
    assert taken_back(router) == [f"s{number}" for number in range(BESIDE, 10)]
    router.ask("another")
    assert len(taken_back(router)) == 10 - BESIDE
    assert router.answers["s9"][-1] == Piece(0, end=True, failure=Failure.TAKEN_BACK)


def test_a_client_that_another_router_sends_takes_it_too() -> None:
    router = calm()
    ask_slack(router, 10)
    router.beats("chat-0", running=11, slack=10)
    assert len(taken_back(router)) == 10 - BESIDE


def test_what_was_taken_back_often_enough_stays_where_it_is() -> None:
    router = calm()
    ask_slack(router, 10, attempt=TAKEN_BACK)
    router.ask("client")
    assert taken_back(router) == []


def test_what_was_taken_back_counts_until_its_engine_has_ended_it() -> None:
    router = calm()
    ask_slack(router, 10)
    router.ask("client")
    router.ask("s10", slack=True)
    assert router.order[-1] == "client"
    ended = [f"s{number}" for number in range(3, 10)]
    router.finished("chat-0", *ended, slack=True, active=4, active_slack=3)
    assert router.order[-1] == "s10"


def test_a_request_that_is_taken_back_is_sent_again_and_counts_nothing_against_anybody() -> None:
    flights = Flights()
    request = Request("r", "gw", "chat", "/v1/completions", b"{}", slack=True, patience=9000.0)
    client = flights.ask(request)
    for attempt in range(1, 8):
        flights.says(Piece(-1, replica="chat-0", attempt=attempt))
        flights.says(Piece(0, end=True, failure=Failure.TAKEN_BACK, attempt=attempt))
        sent = flights.requests[-1]
        assert (sent.attempt, sent.avoid, sent.gone, sent.slack) == (attempt + 1, "", False, True)
        assert flights.cancels[-1] == b"%d" % (attempt + 1)
    last = Piece(0, b"all", status=200, content_type=JSON, attempt=8, replica="chat-1", end=True)
    flights.says(last)
    assert client.ended()[-1].body == b"all"


def test_slack_whose_engine_is_stopped_is_sent_again_as_often_as_that_happens() -> None:
    flights = Flights()
    client = flights.ask(Request("r", "gw", "chat", "/v1/completions", b"{}", slack=True))
    for attempt in range(1, 8):
        flights.says(Piece(-1, replica="chat-0", attempt=attempt))
        flights.says(Piece(0, end=True, failure=Failure.ENGINE_STOPPED, attempt=attempt))
    assert flights.requests[-1].attempt == 8
    assert not client.given


def test_an_answer_that_has_begun_is_not_taken_back() -> None:
    flights = Flights()
    request = replace(chat(), slack=True)
    client = flights.ask(request)
    first, *rest = stream(request, 1, "chat-0")
    flights.says(first)
    flights.says(Piece(0, end=True, failure=Failure.TAKEN_BACK))
    flights.says(*rest)
    assert words(client.ended()) == "Once upon a time"
    assert len(flights.requests) == 1


# Waiting for long


def test_slack_in_its_routers_line_is_not_asked_for_again_however_long_it_waits() -> None:
    flights = Flights()
    request = Request("r", "gw", "chat", "/v1/completions", b"{}", slack=True, patience=90_000.0)
    flights.ask(request)
    flights.says(Piece(-1, queued="router-1"), kept=False)
    for seconds in range(1, 900):
        flights.line = QueueLength(0, 0.0, 1, float(seconds))
        flights.later(1.0, alive=["router-1"])
    assert [each.attempt for each in flights.requests] == [1]


def test_slack_that_has_left_its_routers_line_unheard_is_asked_for_again() -> None:
    flights = Flights()
    request = Request("r", "gw", "chat", "/v1/completions", b"{}", slack=True, patience=90_000.0)
    flights.ask(request)
    flights.says(Piece(-1, queued="router-1"), kept=False)
    flights.line = QueueLength(9, 900.0)  # clients wait there, and no slack
    flights.later(9.0, alive=["router-1"])
    assert flights.requests[-1].attempt > 1


def test_slack_waits_beyond_the_time_in_which_clients_are_told_that_there_is_no_room() -> None:
    story = cluster(alpha=[8]).given("chat", load(1, "80GiB"))
    story.settles()
    router = Router(story)
    router.ask("slack", slack=True, patience=9000.0)
    router.ask("client", patience=9000.0)
    router.later(1)
    router.later(UNPLACEABLE + 1)
    assert router.end("client").status == 503
    assert router.end("slack").queued


def test_slack_for_a_model_that_is_unloaded_is_refused() -> None:
    router = busy()
    router.ask("slack", slack=True)
    router.story.given("chat", ModelUnloadRequested())
    router.story.settles()
    router.later(1)
    assert router.end("slack").failure == Failure.REFUSED


# Bounds


def test_slack_that_waits_keeps_no_client_out() -> None:
    router = busy(max_waiting=2)
    ask_slack(router, 3)
    assert router.end("s1").queued
    assert router.end("s2").status == 429
    router.ask("client")
    assert router.end("client").queued


def test_slack_takes_a_part_of_the_memory_for_what_waits() -> None:
    story = serving(max_in_flight=1, max_waiting=100)
    router = Router(story, waiting_memory=64 * MIB)
    router.ask("first")
    most = int(64 * SLACK_PART)
    for number in range(most + 1):
        router.ask(f"s{number}", slack=True, body=b"x" * (MIB - 1024))
    assert router.end(f"s{most - 1}").queued
    assert router.end(f"s{most}").status == 429
    for number in range(int(64 * ONE_MODELS_PART)):
        router.ask(f"c{number}", body=b"x" * (MIB - 1024))
    assert all(router.end(f"c{number}").queued for number in range(int(64 * ONE_MODELS_PART)))


def test_only_so_much_slack_waits_for_unknown_models() -> None:
    router = Router(cluster(alpha=[80]))
    for number in range(UNKNOWN_WAITING + 1):
        router.ask(f"s{number}", model="nobody", slack=True)
    assert router.end(f"s{UNKNOWN_WAITING}").status == 429


# Neither demand nor use


def asleep() -> Story:
    story = cluster(alpha=[80]).given("chat", replace(load(), on_request=True))
    story.settles()
    return story


def test_slack_wakes_no_model_and_goes_once_another_has_woken_it() -> None:
    router = Router(asleep())
    router.ask("slack", slack=True, patience=900.0)
    assert not router.dispatch.called()
    assert router.dispatch.loads()["chat"].waiting == 0
    assert router.dispatch.status().queues == {"chat": QueueLength(0, 0.0, 1, 0.0)}
    router.story.given("chat", ModelWoken("a client waits"))
    router.story.settles()
    router.story.runs("chat-0")
    router.later(1)
    assert router.order == ["slack"]


def test_slack_under_way_does_not_count_as_use_of_its_model() -> None:
    router = calm()
    ask_slack(router, 3)
    router.beats("chat-0", running=8, slack=8)
    load = router.dispatch.loads()["chat"]
    assert (load.in_flight, load.waiting) == (0, 0)
    router.finished("chat-0", "s0", slack=True, active=7, active_slack=7)
    assert router.dispatch.loads()["chat"].used == load.used == float("-inf")


def test_clients_beside_slack_are_use_of_their_model() -> None:
    router = calm()
    ask_slack(router, 3)
    router.ask("client")
    router.beats("chat-0", running=9, slack=7)
    assert router.dispatch.loads()["chat"].in_flight == 2


def test_slack_in_another_router_does_not_count_as_demand() -> None:
    router = observing()
    router.hears_router("r2", chat=QueueLength(0, 0.0, 5, 60.0))
    assert router.use().waiting == 0
    assert router.observer.others("chat") == Others(1)
    router.hears_router("r2", chat=QueueLength(1, 1.0, 5, 60.0))
    assert router.observer.others("chat") == Others(1, waiting=True)
    assert router.observer.others("else") == Others(1)
    router.clock += ROUTER_SILENCE + 0.1
    assert router.observer.others("chat") == Others()


def test_a_router_that_ends_hands_slack_over_as_slack() -> None:
    router = busy()
    router.ask("slack", slack=True, patience=900.0)
    router.clock += 5
    router.dispatch.hand_over()
    (request,) = router.handed_over
    assert (request.slack, request.patience) == (True, 895.0)


# Laws

slots = st.integers(1, 512)
seconds = st.floats(0, 1e6)
routers = st.integers(0, 5)


@given(slots, seconds, seconds, routers)
def test_shares_hold_together_and_grow_with_calm(
    slots: int, one: float, two: float, routers: int
) -> None:
    early, late = sorted((one, two))
    assert 0 <= slack.share(slots, early) <= slack.share(slots, late) <= max(1, slots - 1)
    assert slack.share(slots, AGES) >= 1
    parts = slack.own_share(slots, late, routers) * (routers + 1)
    assert parts <= max(slack.share(slots, late), routers + 1)


@given(slots, routers, st.integers(0, 600), st.integers(0, 600), st.integers(0, 600), seconds)
def test_what_gets_room_is_not_taken_back_at_once(
    slots: int, routers: int, in_flight: int, of_slack: int, own: int, calm: float
) -> None:
    spare = Spare(in_flight, of_slack, own, calm)
    if slack.has_room(spare, slots, routers):
        assert in_flight < slots
        more = replace(spare, in_flight=in_flight + 1, slack=of_slack + 1, own=own + 1)
        assert not slack.excess(more, slots, routers)


class Cluster:
    """Two routers and one replica of six slots, between which messages take their time."""

    SLOTS = 6

    def __init__(self) -> None:
        self.story = serving(max_in_flight=self.SLOTS)
        self.now = 1000.0
        self.waiting = [set[str](), set[str]()]
        """What clients wait for in each router's line."""
        self.running: dict[str, bool] = {}
        """What the replica has, and whether it is slack."""
        self.told: list[tuple[int, Finished | ReplicaHeartbeat]] = []
        self.asked = 0
        self.routers = [self._router(number) for number in range(2)]

    def _router(self, number: int) -> Dispatch:
        def post(subject: str, header: bytes, body: bytes) -> None:
            if subject.startswith("nebula.leases."):
                return
            kind, *rest = subject.removeprefix("nebula.inference.").split(".")
            if kind == "responses":
                piece = piece_envelope.read_answer(header, body)
                assert piece is not None
                if piece.queued and rest[1].startswith("client"):
                    self.waiting[number].add(rest[1])
                if piece.failure == Failure.TAKEN_BACK:
                    self.end(rest[1])
                return
            request = envelope.read_request(rest[0], parse_headers(header), body)
            assert request is not None
            self.waiting[number].discard(request.id)
            if request.slack:
                assert not self.waiting[number], "a client waits, and slack goes"
            self.running[request.id] = request.slack

        return Dispatch(
            f"r{number}",
            post,
            lambda: self.story.state,
            lambda: self.now,
            lambda: self.story.state.time,
            others=lambda _: Others(1),
        )

    @property
    def slack(self) -> int:
        return sum(self.running.values())

    def ask(self, router: int, *, slack: bool) -> None:
        self.asked += 1
        kind = "slack" if slack else "client"
        request = Request(f"{kind}-{self.asked}", "gw", "chat", "/x", b"", slack=slack)
        header = envelope.request_block(replace(request, patience=1e6))
        self.routers[router].on_request(subjects.requests("chat").encode(), header, b"")

    def end(self, identity: str) -> None:
        """The replica ends a request, and tells both routers, which hear it later."""
        of_slack = self.running.pop(identity, None)
        if of_slack is not None:
            ended = (identity,)
            slack = ended if of_slack else ()
            said = Finished("chat-0", ended, (), len(self.running), (), slack, self.slack)
            self.told += [(0, said), (1, said)]

    def end_one(self, number: int) -> None:
        if self.running:
            self.end(list(self.running)[number % len(self.running)])

    def beat(self) -> None:
        running, slack = len(self.running), self.slack
        said = ReplicaHeartbeat(replica="chat-0", pid=7, running=running, version=1, slack=slack)
        self.told += [(0, said), (1, said)]

    def hear(self) -> None:
        """The next thing that the replica has said comes to one of the routers."""
        if self.told:
            router, said = self.told.pop(0)
            body, dispatch = msgspec.json.encode(said), self.routers[router]
            if isinstance(said, Finished):
                dispatch.on_finished(subjects.finished("chat").encode(), b"", body)
            else:
                dispatch.on_status(subjects.replica_status("chat", "chat-0").encode(), b"", body)

    def later(self, seconds: float) -> None:
        self.now += seconds
        for router in self.routers:
            router.react()


happenings = st.one_of(
    st.tuples(st.just("client"), st.integers(0, 1)),
    st.tuples(st.just("slack"), st.integers(0, 1)),
    st.tuples(st.just("ends"), st.integers(0, 9)),
    st.tuples(st.just("beats"), st.just(0)),
    st.tuples(st.just("hears"), st.just(0)),
    st.tuples(st.just("later"), st.sampled_from([0, 1, 60])),
)


@given(st.lists(happenings, max_size=60))
def test_whatever_happens_slack_of_all_routers_leaves_the_reserve_and_passes_no_client(
    happens: list[tuple[str, int]],
) -> None:
    world = Cluster()
    for what, number in happens:
        match what:
            case "client" | "slack":
                world.ask(number, slack=what == "slack")
            case "ends":
                world.end_one(number)
            case "beats":
                world.beat()
            case "hears":
                world.hear()
            case "later":
                world.later(number)
        assert world.slack <= slack.share(world.SLOTS, 1e9) < world.SLOTS
    while world.told:
        world.hear()
    world.later(AGES)
    while world.running or world.told:  # all come to their turn
        world.end_one(0)
        world.hear()
        world.later(AGES)
    assert not any(router.status().queues for router in world.routers)
