"""What a gateway hears of routers and replicas: which actors live, and what waits where."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nebula.actors.attribution import SUBJECT_OF
from nebula.actors.gateway.addressing import HEARD
from nebula.actors.gateway.heartbeats import FORGOTTEN, Heartbeats
from nebula.events import subjects
from nebula.events.heartbeats import QueueLength, ReplicaHeartbeat, RouterHeartbeat
from nebula.events.intents import ModelScaleRequested
from nebula.events.state import EMPTY
from nebula.events.vocabulary import EngineReady
from tests.unit.story import Story, cluster, load


class Ear:
    """Heartbeats, heard by a clock of their own."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.heard = Heartbeats(lambda: self.clock)

    def replica(self, name: str, pid: int = 7, context: int = 0) -> None:
        status = ReplicaHeartbeat(replica=name, pid=pid, running=0, version=1, context=context)
        self.heard.on_replica(
            SUBJECT_OF[ReplicaHeartbeat](status).encode(), b"", msgspec.json.encode(status)
        )

    def router(self, name: str, **queues: QueueLength) -> None:
        self.heard.on_router(
            subjects.router_status(name).encode(),
            b"",
            msgspec.json.encode(RouterHeartbeat(name, queues)),
        )

    def addressed(self, name: str) -> None:
        status = RouterHeartbeat(name, {}, addressed=True)
        self.heard.on_router(
            subjects.router_status(status.router).encode(), b"", msgspec.json.encode(status)
        )


def test_a_replica_is_silent_since_its_last_heartbeat() -> None:
    ear = Ear()
    ear.replica("chat-0")
    ear.clock += 5
    assert ear.heard.replica_silent("chat-0", 7) == 5.0
    ear.replica("chat-0")
    assert ear.heard.replica_silent("chat-0", 7) == 0.0


def test_one_that_was_never_heard_is_not_silent_nor_is_another_engine_of_it() -> None:
    ear = Ear()
    assert ear.heard.replica_silent("chat-0", 7) == 0.0
    ear.replica("chat-0", pid=7)
    ear.clock += 5
    assert ear.heard.replica_silent("chat-0", 8) == 0.0


def test_a_router_is_silent_since_its_last_heartbeat_or_since_it_was_first_spoken_of() -> None:
    ear = Ear()
    ear.clock += 5
    assert ear.heard.router_silent("r1", since=1002.0) == 3.0
    ear.router("r1")
    ear.clock += 2
    assert ear.heard.router_silent("r1", since=1002.0) == 2.0


def test_no_router_is_silent_for_longer_than_it_could_be_heard() -> None:
    ear = Ear()
    ear.replica("chat-0")
    ear.router("r1")
    ear.clock += 50
    ear.heard.restart()
    ear.clock += 1
    assert ear.heard.replica_silent("chat-0", 7) == 1.0
    assert ear.heard.router_silent("r1", since=0.0) == 1.0


def test_the_context_is_that_of_the_smallest_engine() -> None:
    ear = Ear()
    ear.replica("chat-0", context=4096)
    ear.replica("chat-1", context=2048)
    ear.replica("other", context=16)
    assert ear.heard.context(("chat-0", "chat-1", "unheard")) == 2048
    assert ear.heard.context(()) == 0


def test_what_waits_for_a_model_is_what_waits_in_all_routers() -> None:
    ear = Ear()
    assert ear.heard.queue("chat") == QueueLength(0, 0.0)
    ear.router("r1", chat=QueueLength(2, 3.0), other=QueueLength(9, 9.0))
    ear.router("r2", chat=QueueLength(1, 5.0))
    assert ear.heard.queue("chat") == QueueLength(3, 5.0)
    ear.router("r2")
    assert ear.heard.queue("chat") == QueueLength(2, 3.0)


def test_a_router_lives_for_as_long_as_it_is_heard_every_few_seconds() -> None:
    ear = Ear()
    assert ear.heard.routers_alive() == ()
    ear.router("r1")
    ear.clock += 2
    ear.router("r2")
    assert ear.heard.routers_alive() == ("r1", "r2")
    ear.clock += HEARD - 1
    assert ear.heard.routers_alive() == ("r2",)


def test_a_router_is_addressed_once_it_says_so_and_until_it_says_the_opposite() -> None:
    ear = Ear()
    told = []
    for addressed in (False, True, False):
        status = RouterHeartbeat("r1", addressed=addressed)
        ear.heard.on_router(
            subjects.router_status(status.router).encode(), b"", msgspec.json.encode(status)
        )
        told += [each.addressed for each in ear.heard.routers()]
    assert told == [False, True, False]


def test_the_heartbeat_of_an_older_router_addresses_it_through_the_group() -> None:
    ear = Ear()
    ear.heard.on_router(b"nebula.status.router.r1", b"", b'{"router":"r1","queues":{}}')
    assert [each.addressed for each in ear.heard.routers()] == [False]


def test_routers_that_are_long_silent_are_forgotten_with_what_waited_in_them() -> None:
    ear = Ear()
    ear.router("r1", chat=QueueLength(2, 3.0))
    ear.clock += FORGOTTEN + 1
    ear.heard.forget(EMPTY)
    assert ear.heard.queue("chat") == QueueLength(0, 0.0)


def test_replicas_that_are_gone_are_forgotten() -> None:
    ear = Ear()
    ear.replica("chat-0")
    ear.clock += 9
    ear.heard.forget(EMPTY)
    assert ear.heard.replica_silent("chat-0", 7) == 0.0


def served(replicas: int = 1, **fields: Any) -> Story:
    story = cluster(alpha=[80])
    story.given("chat", load(replicas, **fields)).settles()
    return story


def test_a_model_s_context_is_the_smallest_that_its_engines_tell() -> None:
    model = served(replicas=2).model()
    ear = Ear()
    assert ear.heard.context_of(model) is None
    ear.replica("chat-0", context=8192)
    ear.replica("chat-1")
    assert ear.heard.context_of(model) == 8192
    ear.replica("chat-1", context=4096)
    assert ear.heard.context_of(model) == 4096


def test_a_model_s_context_is_still_known_while_it_has_no_replicas() -> None:
    story = served().runs("chat-0")
    story.given("chat-0", EngineReady(tasks=("generate",), max_model_len=4096))
    story.given("chat", ModelScaleRequested(0))
    assert Ear().heard.context_of(story.model()) == 4096


def test_before_any_engine_has_told_it_the_model_s_option_says_its_context() -> None:
    assert Ear().heard.context_of(served(options={"max_model_len": "4k"}).model()) == 4000


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'{"replica":1,"router":2}'])
def test_what_is_not_a_heartbeat_is_not_heard(body: bytes) -> None:
    ear = Ear()
    ear.heard.on_replica(b"", b"", body)
    ear.heard.on_router(b"", b"", body)
    assert ear.heard.queue("chat") == QueueLength(0, 0.0)


def test_what_a_forgotten_router_had_makes_it_no_better_than_others_when_it_is_back() -> None:
    ear = Ear()
    ear.addressed("r1")
    assert ear.heard.assign(ear.clock) == "r1"
    ear.clock += FORGOTTEN + 1
    ear.heard.forget(EMPTY)
    ear.addressed("r1")
    ear.heard.settle("r1")
    ear.addressed("r2")
    assert [each.untaken for each in ear.heard.routers()] == [0, 0]
    assert {ear.heard.assign(ear.clock) for _ in range(2)} == {"r1", "r2"}


def test_routers_that_take_requests_at_once_get_them_in_turns() -> None:
    ear = Ear()
    for name in ("r1", "r2", "r3"):
        ear.addressed(name)
    order = []
    for _ in range(6):
        order.append(ear.heard.assign(ear.clock))
        ear.heard.settle(order[-1])
    assert order == ["r1", "r2", "r3"] * 2
