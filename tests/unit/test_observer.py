"""What a router keeps of what it sees beside the log, by its own clock alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nebula.actors.router.eviction import ModelUsage
from nebula.actors.router.observer import ABSENT, ROUTER_SILENCE, ModelLoad, Observer
from nebula.events import subjects
from nebula.events.heartbeats import NodeHeartbeat, QueueLength, RouterHeartbeat
from nebula.events.intents import ModelScaleRequested
from nebula.events.values import Autoscale
from nebula.events.vocabulary import EngineFailed, ModelSlept
from tests.unit.story import Story, cluster, load


class Router:
    """Router `r1` with a clock of its own, which looks once a second."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.clock = 1000.0
        self.observer = Observer("r1", lambda: self.clock)
        self.loads: dict[str, ModelLoad] = {}

    def later(self, seconds: float = 0.0) -> None:
        for _ in range(int(seconds)):
            self.observer.observe(self.story.state, self.loads)
            self.clock += 1

    def hears(self, node: str) -> None:
        self.observer.on_node(
            subjects.node_status(node).encode(),
            b"",
            msgspec.json.encode(NodeHeartbeat(node, 7, 0, 0)),
        )

    def hears_router(self, router: str, **queues: QueueLength) -> None:
        body = msgspec.json.encode(RouterHeartbeat(router, queues))
        self.observer.on_router(subjects.router_status(router).encode(), b"", body)

    @property
    def silent(self) -> dict[str, float]:
        silent = self.observer.observe(self.story.state, self.loads).silent
        return {node: silence.seconds for node, silence in silent.items()}

    def use(self, model: str = "chat") -> ModelUsage:
        return self.observer.observe(self.story.state, self.loads).uses[model]


def serving(**fields: Any) -> Router:
    story = cluster(alpha=[80]).given("chat", load(idle_after=60.0, memory="8GiB", **fields))
    story.settles()
    for place in story.model().assignments:
        story.runs(place.replica)
    return Router(story)


# Nodes


def test_a_node_s_silence_counts_from_its_last_heartbeat() -> None:
    router = Router(cluster(alpha=[80], beta=[80]))
    router.later(10)
    router.hears("alpha")
    router.later(5)
    assert router.silent == {"alpha": 5.0, "beta": 15.0}


def test_a_router_that_has_just_started_grants_everybody_the_full_time() -> None:
    router = Router(cluster(alpha=[80]))
    assert router.silent == {"alpha": 0.0}


def test_a_node_that_has_just_registered_gets_the_full_time() -> None:
    router = Router(cluster(alpha=[80]))
    router.later(10)
    router.story.given("beta", cluster(beta=[80]).log[0].content)  # type: ignore[arg-type]
    assert router.silent == {"alpha": 10.0, "beta": 0.0}


def test_a_router_that_was_cut_off_counts_from_its_return() -> None:
    router = serving()
    router.later(10)
    router.observer.restart()
    router.later(3)
    assert router.silent == {"alpha": 3.0}
    assert router.use().idle == 3.0


def test_a_router_that_has_stood_still_itself_blames_no_node() -> None:
    router = Router(cluster(alpha=[80]))
    router.clock += ABSENT + 1
    assert router.silent == {"alpha": 0.0}


# Models


def test_a_model_is_idle_since_its_last_request() -> None:
    router = serving()
    router.later(5)
    assert router.use() == ModelUsage(idle=5.0, serving=5.0, replicas=1)
    router.loads["chat"] = ModelLoad(in_flight=1)
    router.later(3)
    assert router.use() == ModelUsage(in_flight=1, idle=0.0, serving=8.0, replicas=1, asked=0.0)
    router.clock += 1
    router.loads["chat"] = ModelLoad(used=router.clock - 0.5)
    assert router.use().idle == 0.5
    router.loads.clear()
    router.later(2)
    assert router.use().idle == 2.5


def test_a_router_that_stood_still_grants_the_full_time_and_knows_the_last_model_asked_for() -> (
    None
):
    router = serving()
    router.later(5)
    router.loads["chat"] = ModelLoad(used=router.clock)
    router.clock += ABSENT + 1
    assert (router.use().idle, router.use().asked) == (0.0, ABSENT + 1)


def test_a_model_is_idle_from_when_it_serves_and_not_while_it_starts() -> None:
    story = cluster(alpha=[80]).given("chat", load(idle_after=60.0))
    story.settles()
    router = Router(story)
    router.later(40)
    story.runs("chat-0")
    assert router.use() == ModelUsage(started=40.0, replicas=1)
    router.later(2)
    assert router.use() == ModelUsage(idle=2.0, serving=2.0, started=40.0, replicas=1)
    story.given("chat-0", EngineFailed("no", 1))
    assert router.use().serving == 0.0


def test_lines_in_other_routers_count_until_those_fall_silent() -> None:
    router = serving()
    router.loads["chat"] = ModelLoad(waiting=1, longest=0.5)
    router.hears_router("r1", chat=QueueLength(7, 9.0))
    router.hears_router("r2", chat=QueueLength(2, 3.0), other=QueueLength(1, 1.0))
    router.hears_router("r3", chat=QueueLength(1, 1.0))
    assert (router.use().waiting, router.use().longest) == (4, 3.0)
    router.later(ROUTER_SILENCE + 1)
    assert router.use().waiting == 1


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"router":1}'])
def test_nonsense_on_a_router_s_subject_is_passed_over(body: bytes) -> None:
    router = serving()
    router.observer.on_router(b"nebula.status.router.r2", b"", body)
    assert router.use().waiting == 0


def test_a_model_for_which_a_request_only_waits_is_looked_at_too() -> None:
    router = Router(cluster(alpha=[80]).given("plain", load()))
    assert router.observer.observe(router.story.state, {}).uses == {}
    router.hears_router("r2", plain=QueueLength(1, 2.0))
    assert router.use("plain").waiting == 1


def test_a_model_that_sleeps_is_looked_at_when_a_request_waits_and_starts_anew() -> None:
    router = serving()
    router.later(50)
    router.story.given("chat", ModelSlept())
    assert router.observer.observe(router.story.state, router.loads).uses == {}
    router.loads["chat"] = ModelLoad(waiting=1, longest=0.2)
    assert router.use() == ModelUsage(waiting=1, longest=0.2, replicas=0, asked=0.0)


# Spare replicas


def scaled() -> Router:
    return serving(replicas=2, autoscale=Autoscale(1, 3, in_flight=4))


def test_one_fewer_would_do_since_the_load_last_took_them_all() -> None:
    router = scaled()
    router.loads["chat"] = ModelLoad(in_flight=5)
    router.later(5)
    assert (router.use().replicas, router.use().spare) == (2, 0.0)
    router.loads["chat"] = ModelLoad(in_flight=4)
    assert router.use().spare == 0.0
    router.later(7)
    assert router.use().spare == 7.0
    router.loads["chat"] = ModelLoad(in_flight=4, waiting=1, longest=0.1)
    assert router.use().spare == 0.0


def test_another_number_of_replicas_is_watched_from_the_beginning() -> None:
    router = scaled()
    router.later(9)
    router.story.given("chat", ModelScaleRequested(3))
    router.story.given("chat", load(3, autoscale=Autoscale(1, 3, in_flight=4)))
    assert (router.use().replicas, router.use().spare) == (3, 0.0)


def test_without_the_last_replica_no_request_is_possible() -> None:
    router = serving(autoscale=Autoscale(0, 3, in_flight=4))
    router.loads["chat"] = ModelLoad(in_flight=1)
    router.later(5)
    assert router.use().spare == 0.0
    router.loads.clear()
    router.later(5)
    assert router.use().spare == 5.0


def test_a_start_takes_the_time_since_the_engine_failed_not_since_the_first_one() -> None:
    router = serving()
    router.later(30)
    router.story.fails("chat-0")
    router.later(4)
    router.story.runs("chat-0")
    assert router.use().started == 4.0
    router.later(50)
    router.story.fails("chat-0")
    router.later(7)
    router.story.runs("chat-0")
    assert router.use().started == 7.0
