"""A router's part in serving: which request is sent where, which waits, and which is refused.

Everything is told to one `Dispatch` by hand, and everything that it publishes is recorded.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.router.blame import RECOVERY
from nebula.actors.router.dispatch import (
    UNKNOWN_MODEL,
    UNPLACEABLE,
    Dispatch,
)
from nebula.actors.router.lines import UNKNOWN_WAITING, WAITING_MEMORY
from nebula.actors.router.prefixes import digests
from nebula.actors.router.replica_loads import SILENCE, STALL
from nebula.actors.router.routing import SLACK
from nebula.actors.router.slack import Others
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.cache_news import CacheNews
from nebula.events.failures import Failure
from nebula.events.heartbeats import QueueLength, ReplicaHeartbeat, RouterHeartbeat
from nebula.events.inference import Doubt, Finished, Piece, Request, Routed
from nebula.events.intents import AdapterLoadRequested, ModelUnloadRequested
from nebula.events.key_events import KeyIssued
from nebula.events.limit_events import LimitsSet
from nebula.events.memory import MIB
from nebula.events.record import parse_headers
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Autoscale
from nebula.events.version import LOCKS
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    ClusterFounded,
    EngineReady,
    EngineStarted,
    ModelScaled,
    ModelWoken,
)
from tests.unit.story import Story, cluster, gpus, load

TWO = UsageLimits(waiting=2)
HASH = "0" * 64
PREFIX = digests(b"x" * 1024)


class Sent(Struct, frozen=True):
    """A request as a replica got it, why it did, and for which plan's version."""

    replica: str
    request: Request
    routed: Routed
    plan: int | None = None


class Router:
    """A router `r1` with a clock of its own, and what it has published."""

    def __init__(
        self, story: Story, clock: float = 1000.0, waiting_memory: int = WAITING_MEMORY
    ) -> None:
        self.story = story
        self.clock = clock
        self.sent: list[Sent] = []
        self.answers: dict[str, list[Piece]] = {}
        self.handed_over: list[Request] = []
        self.about_leases: list[tuple[str, bytes]] = []
        self.others = Others()
        self.dispatch = Dispatch(
            "r1",
            self._published,
            lambda: self.story.state,
            lambda: self.clock,
            lambda: self.story.state.time,
            waiting_memory,
            lambda _: self.others,
        )

    def _published(self, subject: str, header: bytes, body: bytes) -> None:
        if subject.startswith("nebula.leases."):
            self.about_leases.append((subject, body))
            return
        kind, *rest = subject.removeprefix("nebula.inference.").split(".")
        headers = parse_headers(header)
        if kind == "responses":
            piece = piece_envelope.read(headers, body)
            assert piece is not None
            self.answers.setdefault(rest[1], []).append(piece)
            return
        request = envelope.read_request(rest[0], headers, body)
        assert request is not None
        if kind == "requests":
            self.handed_over.append(request)
            return
        assert kind == "replicas"
        routed = envelope.read_routed(headers)
        assert routed is not None
        self.sent.append(Sent(rest[1], request, routed, envelope.read_plan(header)))

    def ask(
        self, identity: str, *, model: str = "chat", body: bytes = b"{}", **fields: Any
    ) -> Request:
        request = Request(identity, "gw", model, "/v1/completions", body, **fields)
        header = envelope.block(envelope.request_headers(request))
        self.dispatch.on_request(subjects.requests(model).encode(), header, request.body)
        return request

    def cancel(self, identity: str, below: bytes = b"") -> None:
        self.dispatch.on_cancel(subjects.cancel("chat", identity).encode(), b"", below)

    def finished(
        self,
        replica: str,
        *identities: str,
        failed: bool = False,
        active: int = 0,
        unproven: bool = False,
        slack: bool = False,
        active_slack: int = 0,
    ) -> None:
        said = Finished(
            replica,
            identities,
            identities if failed else (),
            active,
            identities if unproven else (),
            identities if slack else (),
            active_slack,
        )
        self.dispatch.on_finished(
            subjects.finished("chat").encode(), b"", msgspec.json.encode(said)
        )

    def beats(self, replica: str, running: int = 0, *, pid: int = 7, **fields: Any) -> None:
        said = ReplicaHeartbeat(replica=replica, pid=pid, running=running, version=1, **fields)
        subject = subjects.replica_status("chat", replica)
        self.dispatch.on_status(subject.encode(), b"", msgspec.json.encode(said))

    def later(self, seconds: float) -> None:
        self.clock += seconds
        self.dispatch.react()

    @property
    def went(self) -> list[tuple[str, str]]:
        """Which request went to which replica, in order."""
        return [(each.request.id, each.replica) for each in self.sent]

    @property
    def order(self) -> list[str]:
        """The requests that went to replicas, in order."""
        return [each.request.id for each in self.sent]

    def end(self, identity: str) -> Piece:
        """The last piece of an answer that came from the router itself."""
        return self.answers[identity][-1]


def serving(replicas: int = 1, **limits: int) -> Story:
    story = cluster(alpha=[80]).given("chat", replace(load(replicas, "8GiB", lora=True), **limits))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def restarts(story: Story, replica: str, pid: int) -> None:
    """Another engine runs for the replica now."""
    version = story.state.replicas[replica].version
    story.given(replica, EngineStarted(pid, 2.0, 8001, "/log", version), EngineReady())


def busy(replicas: int = 1, **limits: int) -> Router:
    """A router whose replicas have one request each, and take no second one."""
    router = Router(serving(replicas, max_in_flight=1, **limits))
    for number in range(replicas):
        router.ask(f"first-{number}")
    assert len(router.sent) == replicas
    router.sent.clear()
    return router


# Going to a replica


def test_a_request_goes_to_a_replica_as_it_came() -> None:
    router = Router(serving())
    request = router.ask("r", adapter="", user="ann", priority=3, timeout=9.0, prefix=PREFIX)
    (sent,) = router.sent
    assert (sent.replica, sent.request) == ("chat-0", request)
    assert router.answers == {}


def test_with_it_goes_why_it_went_there() -> None:
    router = Router(serving(2))
    router.ask("r1")
    router.ask("r2")
    routed = router.sent[1].routed
    assert (routed.router, routed.seq, routed.waited) == ("r1", router.story.state.seq, 0.0)
    assert sorted((each.replica, each.in_flight) for each in routed.candidates) == [
        ("chat-0", int(router.sent[0].replica == "chat-0")),
        ("chat-1", int(router.sent[0].replica == "chat-1")),
    ]


def test_requests_are_spread_over_all_replicas() -> None:
    router = Router(serving(3))
    for number in range(9):
        router.ask(f"r{number}")
    replicas = [replica for _, replica in router.went]
    assert {replica: replicas.count(replica) for replica in replicas} == dict.fromkeys(
        ("chat-0", "chat-1", "chat-2"), 3
    )


def test_a_prompt_goes_where_its_beginning_went_before() -> None:
    router = Router(serving(4))
    for number in range(SLACK):
        router.ask(f"r{number}", prefix=PREFIX)
    assert len({replica for _, replica in router.went}) == 1
    assert router.sent[1].routed.candidates != router.sent[0].routed.candidates


def test_a_prompt_goes_where_an_engine_says_that_its_beginning_is_cached() -> None:
    router = Router(serving(4))

    def tells(replica: str, pid: int = 7, **news: tuple[str, ...]) -> None:
        told = CacheNews(replica=replica, pid=pid, serial=1, **news)  # type: ignore[arg-type]
        subject = subjects.cache("chat", replica).encode()
        router.dispatch.on_cache(subject, b"", msgspec.json.encode(told))

    router.ask("r", prefix=PREFIX)
    first = router.went[0][1]
    there = next(f"chat-{number}" for number in range(4) if f"chat-{number}" != first)
    tells(there, pid=8, held=PREFIX)
    tells("chat-9", held=PREFIX)
    router.ask("r1", prefix=PREFIX)
    assert router.went[1][1] == first, "what another engine tells does not count"
    tells(first, gone=PREFIX)
    tells(there, held=PREFIX)
    for number in range(2, 2 + SLACK):
        router.ask(f"r{number}", prefix=PREFIX)
    assert {replica for _, replica in router.went[2:]} == {there}


def test_routers_that_know_nothing_yet_send_prompts_with_one_beginning_to_one_replica() -> None:
    """As after a restart: what draws a prompt is all of it but its end, where prompts differ."""

    def first(beginning: bytes, end: bytes) -> str:
        router = Router(serving(4))
        router.ask("r", prefix=digests(beginning * 1024 + end * 1024))
        return router.went[0][1]

    ends = [b"%c" % number for number in range(16)]
    assert len({first(b"s", end) for end in ends}) == 1
    assert len({first(beginning, b"e") for beginning in ends}) > 1
    assert len({router.went[0][1] for router in map(short, range(16))}) > 1


def short(number: int) -> Router:
    """A router that has sent one request, whose prompt is too short to have a digest."""
    router = Router(serving(4))
    router.ask(f"r{number}")
    return router


def test_a_beginning_that_all_prompts_share_draws_them_to_no_replica() -> None:
    router = Router(serving(2))
    for number in range(12):
        prompt = b"s" * 300 + b"%d " % number * 1200
        router.ask(f"r{number}", prefix=digests(prompt))
        router.finished(router.went[-1][1], f"r{number}")
    assert {replica for _, replica in router.went} == {"chat-0", "chat-1"}


def test_a_request_for_an_adapter_goes_only_where_that_is_loaded() -> None:
    story = serving(3).given("chat", AdapterLoadRequested("sql", "/a"))
    story.given("chat-1", AdapterLoaded("sql", "/a"))
    router = Router(story)
    for number in range(3):
        router.ask(f"r{number}", adapter="sql")
    assert [replica for _, replica in router.went] == ["chat-1"] * 3


# Waiting


def test_a_request_waits_where_every_replica_has_its_fill_and_its_gateway_hears_of_it() -> None:
    router = busy(2)
    router.ask("r")
    assert router.sent == []
    assert router.answers["r"] == [Piece(-1, queued="r1")]


def test_a_request_that_waits_goes_as_soon_as_another_has_ended() -> None:
    router = busy(2)
    router.ask("r")
    router.clock += 1.25
    router.finished("chat-1", "first-0", "first-1")
    assert router.went == [("r", "chat-1")]
    assert router.sent[0].routed.waited == 1.25


def test_one_end_lets_one_request_go() -> None:
    router = busy()
    router.ask("a")
    router.ask("b")
    router.finished("chat-0", "first-0")
    assert router.order == ["a"]
    router.finished("chat-0", "a")
    assert router.order == ["a", "b"]


def test_a_request_that_has_waited_has_so_much_less_time_left() -> None:
    router = busy()
    router.ask("r", timeout=9.0, patience=30.0)
    router.clock += 4.0
    router.finished("chat-0", "first-0")
    request = router.sent[0].request
    assert (request.timeout, request.patience) == (5.0, 26.0)


def test_the_request_that_came_first_goes_first() -> None:
    router = busy()
    for number in range(3):
        router.ask(f"r{number}")
    ended = "first-0"
    for number in range(3):
        router.finished("chat-0", ended)
        ended = f"r{number}"
    assert router.order == ["r0", "r1", "r2"]


def drained(router: Router, *, ended: str = "first-0") -> list[str]:
    """Let the only replica end one request after the other, until none waits."""
    router.finished("chat-0", ended)
    for each in router.order:
        router.finished("chat-0", each)
    while router.dispatch.status().queues:
        router.finished("chat-0", router.order[-1])
    return router.order


def test_a_user_who_sends_many_requests_delays_another_by_one() -> None:
    router = busy()
    for number in range(5):
        router.ask(f"ann-{number}", user="ann")
    router.ask("bob-0", user="bob")
    assert drained(router)[:3] == ["ann-0", "bob-0", "ann-1"]


def test_a_lower_priority_number_goes_first() -> None:
    router = busy()
    for identity, priority in (("late", 5), ("usual", 0), ("urgent", -1), ("later", 5)):
        router.ask(identity, priority=priority)
    assert drained(router) == ["urgent", "usual", "late", "later"]


def test_a_request_that_comes_while_others_could_go_does_not_overtake_them() -> None:
    router = busy()
    router.ask("a")
    restarts(router.story, "chat-0", pid=8)  # the router has not been told of it yet
    router.ask("b")
    assert router.order == ["a"]


def test_a_line_for_an_adapter_that_is_not_loaded_yet_is_passed_by_others() -> None:
    router = Router(serving().given("chat", AdapterLoadRequested("sql", "/a")))
    router.ask("for-sql", adapter="sql")
    router.ask("plain")
    assert router.order == ["plain"]
    router.story.given("chat-0", AdapterLoaded("sql", "/a"))
    router.dispatch.react()
    assert router.order == ["plain", "for-sql"]


def test_a_request_waits_while_its_model_is_starting() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    router = Router(story)
    router.ask("r")
    router.later(5)
    assert router.sent == []
    story.runs("chat-0")
    router.dispatch.react()
    assert router.went == [("r", "chat-0")]


def test_a_request_for_a_model_that_fits_nowhere_is_refused_before_its_time_is_over() -> None:
    story = cluster(alpha=[4]).given("chat", load(1, "8GiB"))
    story.settles()
    router = Router(story)
    router.ask("r", patience=600.0)
    router.later(1)
    router.later(UNPLACEABLE - 2)
    router.ask("late", patience=600.0)
    router.later(2)
    assert router.end("r").status == 503
    assert not router.end("late").end, "it has waited for 2 s alone"
    assert router.dispatch.status().queues["chat"].waiting == 1


def test_a_model_that_fits_again_in_between_is_waited_for_anew() -> None:
    story = cluster(alpha=[4]).given("chat", load(1, "8GiB"))
    story.settles()
    router = Router(story)
    router.ask("r", patience=600.0)
    router.later(UNPLACEABLE - 1)
    story.given("beta", gpus(80)).settles()
    router.later(2)
    router.later(UNPLACEABLE)
    assert not router.end("r").end
    story.runs("chat-0")
    router.dispatch.react()
    assert router.went == [("r", "chat-0")]


def test_a_request_for_a_model_that_the_router_has_not_heard_of_waits_a_moment() -> None:
    router = Router(cluster(alpha=[80]))
    router.ask("r")
    router.later(UNKNOWN_MODEL / 2)
    router.story.given("chat", load(1, "8GiB")).settles()
    router.story.runs("chat-0")
    router.dispatch.react()
    assert router.went == [("r", "chat-0")]


def test_a_router_s_heartbeat_says_how_many_wait_for_a_model_and_for_how_long() -> None:
    router = busy()
    assert router.dispatch.status() == RouterHeartbeat("r1", {})
    router.ask("a")
    router.clock += 2
    router.ask("b")
    router.clock += 1
    assert router.dispatch.status() == RouterHeartbeat("r1", {"chat": QueueLength(2, 3.0)})
    drained(router)
    assert router.dispatch.status() == RouterHeartbeat("r1", {})


# Refusing


def test_a_request_beyond_those_that_may_wait_is_refused_and_hears_when_to_come_back() -> None:
    router = busy(max_waiting=2)
    router.ask("a")
    router.clock += 7.5
    router.ask("b")
    router.ask("c")
    piece = router.end("c")
    assert (piece.failure, piece.end, piece.status, piece.retry_after) == ("refused", True, 429, 8)
    assert piece.body == b"model 'chat' is busy: 2 requests wait already"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (KeyIssued(HASH, ("infer",), tenant="lab", limits=TWO), b"key 'k' may have 2"),
        (LimitsSet("tenant", TWO), b"tenant 'lab' may have 2"),
        (LimitsSet("model", TWO), b"model 'chat' may have 2"),
    ],
)
def test_a_key_a_tenant_and_a_model_have_only_so_many_requests_that_wait(
    event: KeyIssued | LimitsSet, words: bytes
) -> None:
    router = busy()
    router.story.given("c1", ClusterFounded("lab", LOCKS))
    if isinstance(event, LimitsSet):
        router.story.given("k", KeyIssued(HASH, ("infer",), tenant="lab"))
        router.story.given("lab" if event.kind == "tenant" else "chat", event)
    else:
        router.story.given("k", event)
    for identity in ("a", "b", "c"):
        router.ask(identity, user="key:k/ann")
    piece = router.end("c")
    assert (piece.failure, piece.status, piece.retry_after) == ("refused", 429, 1)
    assert piece.body == words + b" waiting requests, and has 2"
    router.ask("again", user="key:k/ann", attempt=2)  # it has begun: its engine died
    router.ask("batch", user="key:k/ann", slack=True)
    router.ask("other", user="key:other", model="chat")
    assert [each.status for each in router.answers["again"] + router.answers["batch"]] == [0, 0]
    refused = router.answers["other"][-1].status == 429
    assert refused == (isinstance(event, LimitsSet) and event.kind == "model")
    router.cancel("a")
    router.cancel("again")
    router.cancel("other")
    router.ask("d", user="key:k/ann")
    assert router.end("d").failure == ""


@pytest.mark.parametrize(("waited", "retry_after"), [(0.0, 1), (3600.0, 60)])
def test_when_to_come_back_is_between_a_second_and_a_minute(
    waited: float, retry_after: int
) -> None:
    router = busy(max_waiting=1)
    router.ask("a", patience=10_000.0)
    router.clock += waited
    router.ask("b")
    assert router.end("b").retry_after == retry_after


def test_requests_wait_only_as_far_as_there_is_memory_for_them() -> None:
    router = Router(serving(max_in_flight=1), waiting_memory=4 * MIB)
    router.ask("first")
    router.ask("a", body=b"x" * MIB)
    router.ask("b", body=b"x" * MIB)
    piece = router.end("b")
    assert (piece.status, piece.retry_after) == (429, 1)
    assert piece.body == (
        b"model 'chat' is busy: requests of 1.0 MiB wait already, and 2.0 MiB may, half of the "
        b"router's --waiting-memory"
    )
    router.ask("small")
    assert router.end("small").queued
    router.cancel("a")
    router.ask("c", body=b"x" * MIB)
    assert router.end("c").queued
    router.ask("c", attempt=2, body=b"x" * MIB)
    assert router.end("c").queued, "a further attempt takes the place of the one before"


def test_requests_that_fill_the_memory_exactly_wait_and_one_more_byte_is_refused() -> None:
    request = Request("a", "gw", "chat", "/v1/completions", b"x" * 1000)
    size = len(envelope.block(envelope.request_headers(request))) + 1000
    router = Router(serving(max_in_flight=1), waiting_memory=2 * size)
    router.ask("f")
    router.ask("a", body=b"x" * 1001)
    assert router.end("a").status == 429
    router.ask("a", body=b"x" * 1000)
    assert router.end("a").queued
    router.ask("b", body=b"")
    assert router.end("b").status == 429


def test_waiting_requests_for_one_model_leave_room_for_other_models_and_all_have_a_bound() -> None:
    story = cluster(alpha=[80])
    for model in ("chat", "other", "third"):
        story.given(model, load(1, "8GiB"))
    story.settles()
    router = Router(story, waiting_memory=4 * MIB)
    for model in ("chat", "other"):
        router.ask(f"1-{model}", model=model, body=b"x" * (2 * MIB - 1000))
        router.ask(f"2-{model}", model=model, body=b"x" * 2000)
        assert router.end(f"1-{model}").queued
        assert router.end(f"2-{model}").status == 429
    router.ask("3", model="third", body=b"x" * 4000)
    assert router.end("3").body == (
        b"the router is busy: requests of 4.0 MiB wait in it already, and 4.0 MiB may "
        b"(--waiting-memory)"
    )


def test_only_so_many_requests_wait_for_unknown_models() -> None:
    router = Router(cluster(alpha=[80]))
    for number in range(UNKNOWN_WAITING + 1):
        router.ask(f"r{number}", model="nope")
    assert router.end(f"r{UNKNOWN_WAITING - 1}").queued
    assert router.end(f"r{UNKNOWN_WAITING}").status == 429


def test_a_queue_full_of_requests_for_an_adapter_delays_no_other_request() -> None:
    router = Router(serving(max_waiting=1).given("chat", AdapterLoadRequested("sql", "/a")))
    router.ask("for-sql", adapter="sql")
    router.ask("plain")
    router.ask("for-sql-too", adapter="sql")
    assert router.order == ["plain"]
    assert router.end("for-sql-too").status == 429


def test_where_no_request_may_wait_a_busy_model_refuses_at_once() -> None:
    router = busy(max_waiting=0)
    router.ask("r")
    assert router.end("r").status == 429


def test_a_request_for_a_model_that_goes_is_refused_without_a_wait() -> None:
    router = Router(serving().given("chat", ModelUnloadRequested()))
    router.ask("r")
    piece = router.end("r")
    assert (piece.failure, piece.status, piece.retry_after) == ("refused", 503, None)
    assert piece.body == b"model 'chat' has been unloaded"


def test_waiting_requests_are_refused_as_soon_as_they_wait_in_vain() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    router = Router(story.runs("chat-0", ready=False))
    router.ask("r")
    story.gives_up("chat-0")
    router.dispatch.react()
    piece = router.end("r")
    assert piece.status == 503
    assert b"is not served: chat-0 on alpha gave up after 3 attempts" in piece.body


def test_an_adapter_that_no_replica_could_load_is_refused_while_others_wait_on() -> None:
    router = Router(serving().given("chat", AdapterLoadRequested("sql", "/a")))
    router.ask("r", adapter="sql")
    router.story.given("chat-0", AdapterLoadFailed("sql", "/a", "rank too large"))
    router.dispatch.react()
    assert (
        router.end("r").body
        == b"adapter 'sql' could not be loaded: chat-0 on alpha: rank too large"
    )


def test_patience_that_is_over_while_the_model_starts_ends_with_how_far_it_is() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    router = Router(story.runs("chat-0", ready=False))
    router.ask("r", patience=3.0)
    router.later(2.9)
    assert router.answers["r"] == [Piece(-1, queued="r1")]
    router.later(0.2)
    piece = router.end("r")
    assert (piece.status, piece.retry_after) == (503, 5)
    assert piece.body == (
        b"model 'chat' is loading: chat-0 on alpha is starting (attempt 1); it has waited for 3 s, "
        b"which is what its gateway's --load-timeout gives a request, or its X-Request-Timeout "
        b"where that is shorter"
    )


def test_patience_that_is_over_while_all_are_busy_ends_with_that() -> None:
    router = busy()
    router.ask("r", patience=3.0)
    router.later(3.1)
    piece = router.end("r")
    assert (piece.status, piece.retry_after) == (429, 5)
    assert piece.body.startswith(b"model 'chat' is busy: no turn has come; it has waited for 3 s")
    assert b"--load-timeout" in piece.body


def test_patience_for_an_unknown_model_ends_with_that() -> None:
    router = Router(cluster(alpha=[80]))
    router.ask("r", model="nope")
    router.later(UNKNOWN_MODEL + 0.1)
    piece = router.end("r")
    assert (piece.status, piece.retry_after) == (503, 1)
    assert piece.body == b"model 'nope' is not known to the router yet"


def test_no_request_waits_longer_than_its_answer_is_wanted() -> None:
    router = busy()
    router.ask("r", patience=30.0, timeout=2.0, attempt=2, continues="rest")
    router.later(2.1)
    assert router.end("r") == Piece(
        0, end=True, failure=Failure.ENGINE_TIMED_OUT, attempt=2, continues="rest"
    )


def test_at_the_very_moment_at_which_it_is_no_longer_wanted_a_request_is_late_and_not_refused() -> (
    None
):
    router = busy()
    router.ask("r", patience=30.0, timeout=2.0)
    router.later(2.0)
    assert router.end("r").failure == Failure.ENGINE_TIMED_OUT


def test_a_refusal_belongs_to_its_attempt_and_says_how_that_goes_on() -> None:
    router = busy(max_waiting=0)
    router.ask("r", attempt=3, continues="rest")
    piece = router.end("r")
    assert (piece.chunk, piece.attempt, piece.continues) == (0, 3, "rest")


# Changing one's mind


def test_a_request_that_is_cancelled_is_out_of_the_line() -> None:
    router = busy()
    router.ask("a")
    router.ask("b")
    router.cancel("a")
    assert drained(router) == ["b"]
    assert router.answers["a"] == [Piece(-1, queued="r1")]


def test_a_cancellation_with_a_reason_is_one_too() -> None:
    router = busy()
    router.ask("a")
    router.cancel("a", b"overdue: ")
    assert drained(router) == []


def test_a_cancellation_of_earlier_attempts_leaves_a_later_one() -> None:
    router = busy()
    router.ask("a", attempt=2)
    router.cancel("a", b"2")
    assert drained(router) == ["a"]
    router = busy()
    router.ask("a", attempt=1)
    router.cancel("a", b"2")
    assert drained(router) == []


def test_a_further_attempt_replaces_the_previous_one() -> None:
    router = busy()
    router.ask("a", attempt=1)
    router.ask("a", attempt=2)
    assert router.dispatch.status().queues["chat"].waiting == 1
    assert drained(router) == ["a"]
    assert router.sent[0].request.attempt == 2


def test_a_further_attempt_has_all_its_patience() -> None:
    router = busy()
    router.ask("a", attempt=1, patience=3.0)
    router.later(2.0)
    router.ask("a", attempt=2, patience=3.0)
    router.later(2.0)
    assert drained(router) == ["a"]


def test_an_earlier_attempt_that_comes_late_does_not_take_the_place_of_a_later_one() -> None:
    router = busy()
    router.ask("a", attempt=2)
    router.ask("a", attempt=1)
    assert drained(router) == ["a"]
    assert router.sent[0].request.attempt == 2


def test_what_waits_is_handed_over_to_other_routers_at_the_end() -> None:
    router = busy()
    first = router.ask("a", timeout=9.0)
    router.clock += 3
    second = router.ask("b", user="bob")
    router.dispatch.hand_over()
    assert router.handed_over == [replace(first, timeout=6.0, patience=27.0), second]
    router.dispatch.hand_over()
    assert len(router.handed_over) == 2
    assert router.dispatch.status().queues == {}
    router.finished("chat-0", "first-0")
    assert router.sent == []


# What replicas tell


def avoided(router: Router, replica: str) -> bool:
    """Whether a request that comes now would be kept from a replica; it is never answered."""
    router.ask("probe")
    known = {each.replica: each for each in router.sent.pop().routed.candidates}
    return known[replica].avoided


def fails(router: Router, replica: str, *identities: str) -> None:
    for identity in identities:
        router.finished(replica, identity, failed=True)


def test_a_replica_that_failed_different_requests_is_avoided_for_a_while() -> None:
    router = Router(serving(2))
    fails(router, "chat-0", "r1", "r1")
    assert not avoided(router, "chat-0")
    fails(router, "chat-0", "r2")
    assert avoided(router, "chat-0")
    router.clock += RECOVERY + 0.1
    router.beats("chat-0")
    router.beats("chat-1")
    assert not avoided(router, "chat-0")


def test_a_request_that_fails_on_two_replicas_is_not_evidence_against_either() -> None:
    router = Router(serving(4))
    for number in range(12):
        router.ask(f"bad-{number}")
        first = router.sent[-1].replica
        fails(router, first, f"bad-{number}")
        router.ask(f"bad-{number}", attempt=2, avoid=first)
        assert router.sent[-1].replica != first
        fails(router, router.sent[-1].replica, f"bad-{number}")
    for number in range(4):
        assert not avoided(router, f"chat-{number}")


def test_a_success_ends_it_at_once() -> None:
    router = Router(serving(2))
    fails(router, "chat-0", "r1", "r2", "r3")
    router.finished("chat-0", "r4", unproven=True)
    assert avoided(router, "chat-0")
    router.finished("chat-0", "r4")
    assert not avoided(router, "chat-0")


def test_no_replica_that_is_avoided_stands_idle_beside_a_line() -> None:
    router = busy(2)
    router.ask("a")
    fails(router, "chat-0", "first-0", "first-1", "other")
    assert router.went == [("a", "chat-0")]
    router.ask("b")
    router.finished("chat-0", "a", unproven=True)
    assert router.went[1] == ("b", "chat-0")
    (known,) = [each for each in router.sent[1].routed.candidates if each.replica == "chat-0"]
    assert known.doubt == Doubt.FAILED


def test_a_replica_that_was_gone_with_a_request_is_avoided_by_all() -> None:
    router = Router(serving(2))
    router.ask("r")
    gone = router.sent[0].replica
    router.ask("r", attempt=2, avoid=gone, gone=True)
    assert router.sent[1].replica != gone
    assert avoided(router, gone)
    router.clock += RECOVERY + 0.1
    router.beats("chat-0")
    router.beats("chat-1")
    assert not avoided(router, gone)


def test_a_further_attempt_keeps_only_itself_from_where_it_failed() -> None:
    router = Router(serving(2))
    router.ask("r")
    failing = router.sent[0].replica
    router.ask("r", attempt=2, avoid=failing)
    known = {each.replica: each.doubt for each in router.sent[1].routed.candidates}
    assert known[failing] == Doubt.TRIED
    assert not avoided(router, failing)


def test_a_further_attempt_avoids_the_replica_that_failed_the_previous_one() -> None:
    router = Router(serving(2))
    router.ask("r", prefix=PREFIX)
    failing = router.sent[0].replica
    router.ask("r", attempt=2, avoid=failing, prefix=PREFIX)
    assert router.sent[1].replica != failing


def test_a_further_attempt_goes_back_if_there_is_no_other_replica() -> None:
    router = Router(serving(1))
    router.ask("r")
    router.ask("r", attempt=2, avoid="chat-0")
    assert router.went == [("r", "chat-0")] * 2


def test_a_silent_replica_is_avoided_until_it_is_heard_again() -> None:
    router = Router(serving(2))
    assert not avoided(router, "chat-1")
    router.clock += SILENCE + 0.1
    router.beats("chat-0")
    assert avoided(router, "chat-1")
    router.beats("chat-1")
    assert not avoided(router, "chat-1")


def test_a_replica_that_has_requests_and_says_nothing_is_avoided_while_that_lasts() -> None:
    router = Router(serving(2))
    avoided(router, "chat-1")
    router.beats("chat-1", 1, stalled=STALL + 0.1)
    assert avoided(router, "chat-1")
    router.beats("chat-1", 1, stalled=0.0)
    assert not avoided(router, "chat-1")


def test_what_an_engine_holds_back_and_how_full_its_cache_is_comes_from_its_heartbeat() -> None:
    router = Router(serving(1))
    avoided(router, "chat-0")
    router.beats("chat-0", 0, waiting=3, cache=0.5)
    router.ask("r")
    (known,) = router.sent[-1].routed.candidates
    assert (known.waiting, known.cache) == (3, 0.5)


def in_flight(router: Router, replica: str = "chat-0") -> int:
    """What the router counts as under way at a replica; what it asks to learn that ends at once."""
    router.ask("counting")
    sent = router.sent.pop()
    known = {each.replica: each.in_flight for each in sent.routed.candidates}
    router.dispatch._loads._of[sent.replica].sent.pop("counting")
    return known[replica]


def test_requests_of_other_routers_count_by_heartbeats_and_by_what_engines_are_done_with() -> None:
    router = Router(serving(1))
    router.ask("mine")
    assert in_flight(router) == 1
    router.beats("chat-0", 5)
    assert in_flight(router) == 5
    router.finished("chat-0", "of-another-router", active=3)
    assert in_flight(router) == 3
    router.finished("chat-0", "mine", active=2)
    assert in_flight(router) == 2


def test_a_replica_that_is_full_with_requests_of_other_routers_is_full() -> None:
    router = Router(serving(1, max_in_flight=2))
    router.ask("mine")
    router.beats("chat-0", 2)
    router.ask("r")
    assert router.order == ["mine"]
    router.beats("chat-0", 1)
    assert router.order == ["mine", "r"]


def test_an_end_that_was_lost_on_its_way_does_not_weigh_on_a_replica_for_ever() -> None:
    router = Router(serving(1))
    router.ask("lost")
    router.beats("chat-0", 0)
    assert in_flight(router) == 1  # it may be on its way there
    router.clock += 2.1
    router.beats("chat-0", 0)
    assert in_flight(router) == 0


def test_another_engine_of_a_replica_has_free_hands_and_an_empty_cache() -> None:
    router = Router(serving(1, max_in_flight=1))
    router.ask("r", prefix=PREFIX)
    router.ask("waits", prefix=PREFIX)
    restarts(router.story, "chat-0", pid=8)
    router.dispatch.react()
    assert router.order == ["r", "waits"]
    (known,) = router.sent[1].routed.candidates
    assert (known.in_flight, known.prefix) == (0, 0)


def test_what_the_old_engine_said_last_is_not_taken_for_the_new_ones_word() -> None:
    router = Router(serving(1))
    avoided(router, "chat-0")
    restarts(router.story, "chat-0", pid=8)
    avoided(router, "chat-0")
    router.beats("chat-0", 9, pid=7, stalled=99.0)
    assert not avoided(router, "chat-0")


def test_a_replica_that_is_gone_from_the_log_is_forgotten() -> None:
    router = Router(serving(1))
    router.ask("r")
    story = Story()
    router.story = story
    router.dispatch.react()
    assert len(router.dispatch._loads) == 0


# What makes no sense


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'{"replica":1}', b"null"])
def test_what_is_neither_a_heartbeat_nor_an_end_changes_nothing(body: bytes) -> None:
    router = busy()
    router.ask("r")
    subject = subjects.replica_status("chat", "chat-0").encode()
    router.dispatch.on_status(subject, b"", body)
    router.dispatch.on_finished(subjects.finished("chat").encode(), b"", body)
    assert router.sent == []


def test_reports_of_unused_replicas_change_nothing() -> None:
    router = busy()
    router.ask("r")
    router.beats("nobody", 0)
    router.finished("nobody", "r")
    assert router.sent == []


@pytest.mark.parametrize(
    "header", [b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nNebula-Path: /\r\n\r\n"]
)
def test_what_no_gateway_has_sent_is_not_a_request(header: bytes) -> None:
    router = Router(serving())
    router.dispatch.on_request(subjects.requests("chat").encode(), header, b"{}")
    assert router.sent == []
    assert router.answers == {}


@pytest.mark.parametrize("body", [b"", b"2", b"because", b"\xff"])
def test_cancelling_what_does_not_wait_changes_nothing(body: bytes) -> None:
    router = busy()
    router.ask("r")
    router.cancel("another", body)
    assert drained(router) == ["r"]


# Laws

IDS = st.sampled_from([f"r{number}" for number in range(6)])
REPLICAS = st.sampled_from(["chat-0", "chat-1"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), IDS, st.sampled_from(["", "ann", "bob"]), st.integers(0, 2)),
        st.tuples(st.just("ask"), IDS, st.just(""), st.just(0)),
        st.tuples(st.just("cancel"), IDS),
        st.tuples(st.just("finish"), REPLICAS, st.booleans()),
        st.tuples(st.just("beat"), REPLICAS, st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("later"), st.sampled_from([0.1, 1.0, 5.0])),
        st.tuples(st.just("restart"), REPLICAS),
        st.tuples(st.just("stop"), REPLICAS),
        st.tuples(st.just("give up"), st.just("chat-0")),
    ),
    max_size=40,
)


@given(steps, st.booleans())
def test_no_request_is_lost_or_answered_twice_whatever_the_order_of_messages(
    said: list[tuple[Any, ...]], ends: bool
) -> None:
    router = Router(serving(2, max_in_flight=1, max_waiting=3))
    attempts: dict[str, int] = {}
    cancelled: set[tuple[str, int]] = set()
    pid = 100
    for step in said:
        match step:
            case "ask", identity, user, priority:
                attempts[identity] = attempts.get(identity, 0) + 1
                router.ask(
                    identity,
                    attempt=attempts[identity],
                    user=user,
                    priority=priority,
                    patience=6.0,
                )
            case "cancel", identity:
                router.cancel(identity)
                cancelled |= {(identity, each + 1) for each in range(attempts.get(identity, 0))}
            case "finish", replica, failed:
                running = [each.request.id for each in router.sent if each.replica == replica]
                router.finished(replica, *running, failed=failed)
            case "beat", replica, running, stalled:
                pid_now = router.story.state.replicas[replica].engine
                router.beats(
                    replica, running, pid=pid_now.pid if pid_now else 7, stalled=float(stalled)
                )
            case "later", seconds:
                router.later(seconds)
            case "restart", replica:
                pid += 1
                restarts(router.story, replica, pid)
            case "stop", replica:
                router.story.stops(replica)
            case "give up", replica:
                router.story.gives_up(replica)
    line = router.dispatch.status().queues
    if ends:
        router.dispatch.hand_over()
    sent = [(each.request.id, each.request.attempt) for each in router.sent]
    refused = [
        (identity, piece.attempt)
        for identity, pieces in router.answers.items()
        for piece in pieces
        if piece.end
    ]
    handed_over = [(each.id, each.attempt) for each in router.handed_over]
    done = sent + refused + handed_over
    assert len(done) == len(set(done))
    waiting = {
        (identity, last)
        for identity, last in attempts.items()
        if (identity, last) not in done and (identity, last) not in cancelled
    }
    # What is neither sent nor refused nor cancelled still waits: an earlier attempt for its next.
    assert len(waiting) + len(handed_over) == sum(each.waiting for each in line.values())
    assert not (ends and waiting)


@given(st.lists(st.tuples(REPLICAS, st.integers(0, 2)), max_size=30), st.integers(1, 3))
def test_no_replica_ever_has_more_than_its_fill(ends: list[tuple[str, int]], limit: int) -> None:
    router = Router(serving(2, max_in_flight=limit))
    running: dict[str, list[str]] = {"chat-0": [], "chat-1": []}

    def count() -> None:
        for each in router.sent:
            running[each.replica].append(each.request.id)
        router.sent.clear()
        assert all(len(requests) <= limit for requests in running.values())

    for number, (replica, ended) in enumerate(ends):
        router.ask(f"r{number}")
        count()
        over = [running[replica].pop(0) for _ in range(min(ended, len(running[replica])))]
        router.finished(replica, *over, active=len(running[replica]))
        count()
    waiting = sum(each.waiting for each in router.dispatch.status().queues.values())
    assert waiting == 0 or all(len(requests) == limit for requests in running.values())


# What it sees of models


def test_a_request_says_for_which_plan_its_replica_was_chosen() -> None:
    router = Router(serving())
    router.ask("one")
    assert [each.plan for each in router.sent] == [1]


def test_requests_in_engines_and_in_queues_are_counted_whichever_router_sent_them() -> None:
    router = busy(2)
    router.finished("chat-1", "somebody-else-s", active=3)
    router.ask("waits")
    router.later(1.5)
    [load] = router.dispatch.loads().values()
    assert (load.in_flight, load.waiting, load.longest) == (1 + 3, 1, 1.5)
    assert load.used == router.clock - 1.5


def test_an_engine_that_this_router_never_sent_to_is_seen_too() -> None:
    router = Router(serving())
    assert router.dispatch.loads() == {}
    router.beats("chat-0", running=2)
    assert router.dispatch.loads()["chat"].in_flight == 2
    restarts(router.story, "chat-0", pid=8)
    assert router.dispatch.loads()["chat"].in_flight == 0, "that engine is gone"
    router.beats("chat-0", running=1, pid=8)
    assert router.dispatch.loads()["chat"].in_flight == 1


def test_a_request_for_a_model_that_sleeps_waits_and_calls() -> None:
    story = cluster(alpha=[80]).given("chat", replace(load(), on_request=True))
    story.settles()
    router = Router(story)
    router.ask("one", patience=20.0)
    assert router.dispatch.called()
    assert not router.dispatch.called()
    router.ask("two", patience=10.0)
    assert not router.dispatch.called(), "the first one of a queue calls for all of them"
    router.later(19)
    story.given("chat", ModelWoken())
    story.settles()
    story.runs("chat-0")
    router.later(0.1)
    assert router.order == ["one"]


def test_a_model_that_is_scaled_by_load_to_nothing_is_waited_for() -> None:
    auto = Autoscale(0, 1)
    story = cluster(alpha=[80]).given("chat", replace(load(0), autoscale=auto))
    story.settles()
    router = Router(story)
    router.ask("one")
    assert router.dispatch.loads()["chat"].waiting == 1
    story.given("chat", ModelScaled(1))
    story.settles()
    story.runs("chat-0")
    router.later(0.1)
    assert router.order == ["one"]


def test_a_request_that_waits_for_a_sleeping_model_in_vain_is_told_that_others_have_a_turn() -> (
    None
):
    story = cluster(alpha=[80]).given("chat", replace(load(), on_request=True))
    story.settles()
    router = Router(story)
    router.ask("one", patience=5.0)
    router.later(6)
    refused = router.end("one")
    assert (refused.status, refused.retry_after) == (503, 5)
    assert refused.body.startswith(b"model 'chat' waits for room, which other models have now; ")
