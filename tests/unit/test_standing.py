"""How a model stands, in one word and one sentence for people."""

from __future__ import annotations

import pytest

from nebula.events.intents import ModelScaleRequested, ModelUnloadRequested
from nebula.events.memory import GIB
from nebula.events.standing import Standing, loading_seconds, standing
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    EngineFailed,
    ModelScaled,
    ModelWoken,
    NodeLost,
)
from nebula.history.advice import advice
from tests.unit.story import SECOND, Story, cluster, load


def placed(replicas: int = 1, memory: str = "8GiB") -> Story:
    story = cluster(alpha=[20]).given("chat", load(replicas, memory))
    story.settles()
    return story


def stands(story: Story) -> Standing:
    return standing(story.state, story.model())


def failed(attempt: int, retry_in: float | None) -> EngineFailed:
    return EngineFailed("ValueError: no", 1, attempt=attempt, retry_in=retry_in)


def test_a_model_that_nobody_has_placed_yet_is_loading() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    assert stands(story) == Standing("loading", 0, 1, "it waits for a router to place it")


def test_a_placed_model_is_loading_until_it_serves() -> None:
    story = placed()
    assert stands(story) == Standing("loading", 0, 1, "chat-0 on alpha waits to be started")
    story.runs("chat-0", ready=False)
    assert stands(story) == Standing("loading", 0, 1, "chat-0 on alpha is starting (attempt 1)")
    story.runs("chat-0")
    assert stands(story) == Standing("ready", 1, 1)


def test_a_replica_that_waits_for_another_start_on_its_device_says_for_which() -> None:
    story = placed()
    story.given("next", load(memory="8GiB"))
    story.settles()
    story.runs("chat-0", ready=False)
    waiting = standing(story.state, story.state.models["next"]).detail
    assert waiting == (
        "next-0 on alpha waits until chat-0 has started on alpha/0: one starts there at a time"
    )
    told = advice(story.state, story.state.models["next"])
    assert told.startswith("Wait: chat-0 starts there first")
    story.runs("chat-0")
    after = standing(story.state, story.state.models["next"]).detail
    assert after == "next-0 on alpha waits to be started"


def test_a_replica_whose_files_are_still_to_come_says_how_far_they_are() -> None:
    story = placed()
    source = story.model().spec.source
    story.given("alpha", DownloadStarted(source, done=0, total=4 * GIB))
    story.given("alpha", DownloadProgressed(source, 3 * GIB, 4 * GIB))
    assert stands(story).detail == f"chat-0 on alpha is fetching {source}: 3.0 GiB of 4.0 GiB, 75 %"
    story.given("alpha", DownloadFailed(source, "the line is down", 8.0))
    assert stands(story).detail == (
        f"chat-0 on alpha could not fetch {source} (again in 8 s): the line is down"
    )
    story.given("alpha", DownloadFinished(source, 4 * GIB))
    assert stands(story).detail == "chat-0 on alpha waits to be started"


def test_a_model_is_ready_when_any_of_its_replicas_serves() -> None:
    story = placed(2).runs("chat-1")
    assert stands(story) == Standing("ready", 1, 2, "chat-0 on alpha waits to be started")


def test_a_model_without_room_is_unschedulable() -> None:
    stood = stands(placed(memory="40GiB"))
    assert (stood.word, stood.ready, stood.wanted) == ("unschedulable", 0, 1)
    assert stood.detail.startswith("1 of 1 replicas not placed: no device has room")


def test_a_model_with_room_for_some_stands_by_those_and_tells_of_the_rest() -> None:
    story = placed(3)
    assert stands(story).word == "loading"
    stood = stands(story.runs("chat-0").runs("chat-1"))
    assert (stood.word, stood.ready, stood.wanted) == ("ready", 2, 3)
    assert stood.detail.startswith("1 of 3 replicas not placed: ")


def test_a_failed_start_that_is_tried_again_is_still_loading() -> None:
    story = placed().runs("chat-0", ready=False).given("chat-0", failed(1, 4.0))
    detail = "chat-0 on alpha failed (attempt 1, again in 4 s): ValueError: no"
    assert stands(story) == Standing("loading", 0, 1, detail)
    story.given("chat-0", failed(2, 0.0))
    assert "(attempt 2, again now)" in stands(story).detail


def test_a_model_whose_every_replica_was_given_up_has_failed() -> None:
    story = placed(2).runs("chat-0", ready=False).gives_up("chat-0")
    assert stands(story).word == "loading"
    story.gives_up("chat-1")
    stood = stands(story)
    assert (stood.word, stood.ready, stood.wanted) == ("failed", 0, 2)
    assert "chat-0 on alpha gave up after 3 attempts: ValueError: no" in stood.detail


@pytest.mark.parametrize("ready", [True, False])
def test_of_a_replica_on_a_lost_node_nobody_knows_how_it_is(ready: bool) -> None:
    stood = stands(placed().runs("chat-0", ready=ready).given("alpha", NodeLost()))
    phase = "ready" if ready else "starting"
    assert (
        stood.detail == f"chat-0 on alpha was {phase} when alpha was lost: how it is nobody knows"
    )
    assert stood.ready == ready


def test_a_model_with_one_replica_left_is_ready_though_another_was_given_up() -> None:
    stood = stands(placed(2).runs("chat-0").gives_up("chat-1"))
    assert (stood.word, stood.ready, stood.wanted) == ("ready", 1, 2)


def test_a_replica_that_is_to_be_replaced_serves_until_another_does() -> None:
    story = placed().runs("chat-0")
    story.given("chat", load(memory="9GiB")).settles()
    stood = stands(story)
    assert (stood.word, stood.ready, stood.wanted, stood.changing) == ("ready", 1, 1, 1)
    assert stood.detail.startswith("chat-0 on alpha serves until another one does: ")
    story.runs("chat-1").settles()
    assert stands(story) == Standing("ready", 1, 1)


def test_a_replica_that_is_replaced_in_its_place_serves_no_more() -> None:
    story = placed().runs("chat-0")
    story.given("chat", load(memory="12GiB")).settles()
    assert stands(story) == Standing("loading", 0, 1, "chat-0 on alpha is being replaced")


def test_a_model_that_is_scaled_to_none_is_idle() -> None:
    story = placed().runs("chat-0").given("chat", ModelScaleRequested(0))
    story.settles()
    assert stands(story) == Standing("idle", 0, 0, "it is scaled to 0 replicas")


def test_a_model_that_waits_for_its_first_request_is_asleep() -> None:
    story = cluster(alpha=[80]).given("chat", load(on_request=True))
    story.settles()
    assert stands(story) == Standing("asleep", 0, 0, "it sleeps until somebody asks for it")
    story.given("chat", ModelWoken()).settles()
    assert stands(story).word == "loading"


def test_how_many_replicas_are_wanted_the_load_says_where_it_may() -> None:
    spec = load(2, "2GiB", autoscale=Autoscale(1, 4))
    story = cluster(alpha=[80]).given("chat", spec)
    story.settles()
    assert stands(story).wanted == 2
    story.given("chat", ModelScaled(3)).settles()
    assert (stands(story).wanted, len(story.places())) == (3, 3)


def test_an_unloaded_model_is_unloading_until_its_last_engine_has_ended() -> None:
    story = placed(2).runs("chat-0").runs("chat-1").given("chat", ModelUnloadRequested())
    assert stands(story) == Standing("unloading", 0, 0, "2 engines are still ending")
    story.stops("chat-0")
    assert stands(story) == Standing("unloading", 0, 0, "1 engine is still ending")


def test_the_time_of_loading_is_that_of_the_oldest_start() -> None:
    story = placed(2)
    assert loading_seconds(story.state, story.model(), now=99 * SECOND) == 0
    story.runs("chat-0", ready=False).runs("chat-1", ready=False)
    began = story.engine("chat-0").started
    assert loading_seconds(story.state, story.model(), began + 7 * SECOND) == 7
    assert loading_seconds(story.state, story.model(), began - 7 * SECOND) == 0
    story.runs("chat-0").runs("chat-1")
    assert loading_seconds(story.state, story.model(), began + 7 * SECOND) == 0
