"""How a model stands, in one word and one sentence for people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nebula.events.intents import ModelLoadRequested, ModelScaleRequested, ModelUnloadRequested
from nebula.events.memory import GIB
from nebula.events.model_status import ModelStatus, loading_seconds, model_status
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    EngineFailed,
    EngineStarted,
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


def stands(story: Story, now: int | None = None, model: str = "chat") -> ModelStatus:
    return model_status(story.state, story.model(model), now)


def clock(time: float) -> str:
    return f"{datetime.fromtimestamp(time / SECOND, UTC):%H:%M:%S} UTC"


def failed(attempt: int, retry_in: float | None) -> EngineFailed:
    return EngineFailed("ValueError: no", 1, attempt=attempt, retry_in=retry_in)


def test_a_model_that_is_not_placed_yet_is_loading() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    assert stands(story) == ModelStatus("loading", 0, 1, "it waits for a router to place it")


def test_a_placed_model_is_loading_until_it_serves() -> None:
    story = placed()
    assert stands(story) == ModelStatus("loading", 0, 1, "chat-0 on alpha waits to be started")
    story.runs("chat-0", ready=False)
    assert stands(story) == ModelStatus("loading", 0, 1, "chat-0 on alpha is starting (attempt 1)")
    story.runs("chat-0")
    assert stands(story) == ModelStatus("ready", 1, 1)


def test_a_replica_that_waits_for_another_start_on_its_device_says_for_which() -> None:
    story = placed()
    story.given("next", load(memory="8GiB"))
    story.settles()
    story.runs("chat-0", ready=False)
    waiting = model_status(story.state, story.state.models["next"]).detail
    assert waiting == (
        f"next-0 on alpha waits until chat-0 has started on alpha/0, which is under way since "
        f"{clock(story.state.time)}: one engine starts there at a time"
    )
    now = story.engine("chat-0").started + 42 * SECOND
    assert "which is under way for 42 s" in stands(story, now, "next").detail
    told = advice(story.state, story.state.models["next"])
    assert told.startswith("Wait: chat-0 starts there first")
    story.runs("chat-0")
    after = model_status(story.state, story.state.models["next"]).detail
    assert after == "next-0 on alpha waits to be started"


def test_a_restart_that_waits_for_another_start_names_it_and_no_moment() -> None:
    story = placed().runs("chat-0")
    story.given("next", load(memory="8GiB"))
    story.settles()
    story.runs("next-0", ready=False).fails("chat-0")
    detail = stands(story, story.engine("next-0").started + 70 * SECOND).detail
    assert detail == (
        "chat-0 on alpha failed (attempt 1, it waits until next-0 has started on alpha/0, which is "
        "under way for 70 s: one engine starts there at a time): killed"
    )


def test_a_replica_waits_for_one_that_served_and_is_to_start_again_and_says_so() -> None:
    story = placed().runs("chat-0")
    story.given("next", load(memory="8GiB"))
    story.settles()
    story.fails("chat-0")
    assert stands(story, model="next").detail == (
        "next-0 on alpha waits until chat-0 has started on alpha/0: one engine starts there at a "
        "time, and one that served before goes first"
    )
    told = advice(story.state, story.model("next"))
    assert told.startswith("Wait: chat-0 served before, and starts there first")
    assert "again after a pause of 1 s" in stands(story).detail
    story.gives_up("chat-0")
    assert stands(story, model="next").detail == "next-0 on alpha waits to be started"


def test_a_replica_that_served_keeps_its_turn_where_its_files_are_and_not_where_they_come() -> None:
    story = placed().runs("chat-0")
    story.given("next", ModelLoadRequested("/other", memory="8GiB")).settles()
    story.stops("chat-0")
    assert "one that served before goes first" in stands(story, model="next").detail
    story.given("alpha", DownloadProgressed(story.model().spec.source, 3 * GIB, 4 * GIB))
    assert stands(story, model="next").detail == "next-0 on alpha waits to be started"


def test_a_replica_whose_device_is_still_being_freed_names_the_other() -> None:
    story = placed(memory="4GiB").runs("chat-0")
    story.given("chat", ModelScaleRequested(0)).settles()
    story.given("next", load(memory="4GiB")).settles()
    waiting = model_status(story.state, story.state.models["next"]).detail
    assert waiting == "next-0 on alpha waits until chat-0 has ended on alpha/0"
    told = advice(story.state, story.state.models["next"])
    assert told.startswith("Wait: chat-0 has to end there first")


def test_a_further_attempt_says_why_the_previous_one_failed_and_a_first_one_nothing() -> None:
    story = placed().runs("chat-0").stops("chat-0")
    story.given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1, attempt=1))
    assert stands(story).detail == "chat-0 on alpha is starting (attempt 1)"
    assert "is loading" in advice(story.state, story.model())
    story.given("chat-0", failed(1, 4.0))
    story.given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1, attempt=2))
    assert stands(story).detail == (
        "chat-0 on alpha is starting (attempt 2); the attempt before failed: ValueError: no"
    )
    assert advice(story.state, story.model()).startswith(
        "Wait: attempt 2 is under way. If it fails too: fix what its engine complains of"
    )


def test_what_to_do_about_files_that_come_slowly_or_not_at_all() -> None:
    story = placed()
    source = story.model().spec.source
    story.given("alpha", DownloadProgressed(source, 3 * GIB, 4 * GIB))
    assert advice(story.state, story.model()).startswith("Wait: alpha fetches the files first")
    story.given("alpha", DownloadFailed(source, "it needs 9 GiB more on the disk of /cache", 8.0))
    told = advice(story.state, story.model())
    assert told.startswith("Make room on the disk of alpha; it tries again by itself")


def test_a_replica_whose_files_are_still_to_come_says_how_far_they_are() -> None:
    story = placed()
    source = story.model().spec.source
    story.given("alpha", DownloadStarted(source, done=0, total=4 * GIB))
    story.given("alpha", DownloadProgressed(source, 3 * GIB, 4 * GIB))
    assert stands(story).detail == f"chat-0 on alpha is fetching {source}: 3.0 GiB of 4.0 GiB, 75 %"
    story.given("alpha", DownloadFailed(source, "the line is down", 8.0))
    assert stands(story).detail == (
        f"chat-0 on alpha could not fetch {source} (again after a pause of 8 s): the line is down"
    )
    now = story.state.time
    assert f"(again in 3 s, at {clock(now + 8 * SECOND)})" in stands(story, now + 5 * SECOND).detail
    assert "(again now)" in stands(story, now + 8 * SECOND).detail
    story.given("alpha", DownloadFinished(source, 4 * GIB))
    assert stands(story).detail == "chat-0 on alpha waits to be started"


def test_a_replica_whose_files_wait_says_what_for_and_since_when() -> None:
    story = placed()
    source = story.model().spec.source
    story.given("alpha", DownloadWaits(source, "asks the hub for its files"))
    since = f"{datetime.fromtimestamp(story.state.time / 1e9, UTC):%H:%M:%S} UTC"
    asks = f"chat-0 on alpha asks the hub for its files since {since}"
    assert stands(story).detail == asks
    assert advice(story.state, story.model()).startswith("Wait: alpha fetches the files first")
    story.given("alpha", DownloadFailed(source, "the line is down", 8.0))
    assert "since" not in stands(story).detail
    story.given("alpha", DownloadWaits(source, "waits for a free download: lab/x"))
    assert stands(story).detail.startswith("chat-0 on alpha waits for a free download: lab/x since")
    assert stands(story).detail.endswith(" UTC; the attempt before failed: the line is down")
    for ends in (DownloadStarted(source, total=9), DownloadFinished(source, 9)):
        story.given("alpha", DownloadWaits(source, "asks the hub for its files"), ends)
        assert "asks" not in stands(story).detail
    story.given("alpha", DownloadWaits(source, "asks the hub for its files"))
    assert "asks the hub" in stands(story).detail, "whole, and yet asked for again"


def test_a_model_is_ready_when_any_of_its_replicas_serves() -> None:
    story = placed(2).runs("chat-1")
    assert stands(story) == ModelStatus("ready", 1, 2, "chat-0 on alpha waits to be started")


def test_a_model_without_room_is_unschedulable() -> None:
    stood = stands(placed(memory="40GiB"))
    assert (stood.phase, stood.ready, stood.wanted) == ("unschedulable", 0, 1)
    assert stood.detail.startswith("1 of 1 replicas not placed: no device has room")


def test_a_model_with_room_for_some_stands_by_those_and_tells_of_the_rest() -> None:
    story = placed(3)
    assert stands(story).phase == "loading"
    stood = stands(story.runs("chat-0").runs("chat-1"))
    assert (stood.phase, stood.ready, stood.wanted) == ("ready", 2, 3)
    assert stood.detail.startswith("1 of 3 replicas not placed: ")


def test_a_failed_start_that_is_tried_again_is_still_loading() -> None:
    story = placed().runs("chat-0", ready=False).given("chat-0", failed(1, 4.0))
    detail = "chat-0 on alpha failed (attempt 1, again after a pause of 4 s): "
    assert stands(story) == ModelStatus("loading", 0, 1, f"{detail}ValueError: no")
    since = story.state.replicas["chat-0"].since
    soon = stands(story, since + SECOND).detail
    assert f"(attempt 1, again in 3 s, at {clock(since + 4 * SECOND)})" in soon
    assert "(attempt 1, again now)" in stands(story, since + 4 * SECOND).detail
    story.given("chat-0", failed(2, 0.0))
    assert "(attempt 2, again now)" in stands(story).detail


def test_a_model_whose_every_replica_was_given_up_has_failed() -> None:
    story = placed(2).runs("chat-0", ready=False).gives_up("chat-0")
    assert stands(story).phase == "loading"
    story.gives_up("chat-1")
    stood = stands(story)
    assert (stood.phase, stood.ready, stood.wanted) == ("failed", 0, 2)
    assert "chat-0 on alpha gave up after 3 attempts: ValueError: no" in stood.detail


@pytest.mark.parametrize("ready", [True, False])
def test_the_state_of_a_replica_on_a_lost_node_is_unknown(ready: bool) -> None:
    stood = stands(placed().runs("chat-0", ready=ready).given("alpha", NodeLost()))
    phase = "ready" if ready else "starting"
    assert stood.detail == (
        f"chat-0 on alpha was {phase} when alpha was lost: its current state is unknown"
    )
    assert stood.ready == ready


def test_a_model_with_one_replica_left_is_ready_though_another_was_given_up() -> None:
    stood = stands(placed(2).runs("chat-0").gives_up("chat-1"))
    assert (stood.phase, stood.ready, stood.wanted) == ("ready", 1, 2)


def test_a_replica_that_is_to_be_replaced_serves_until_another_does() -> None:
    story = placed().runs("chat-0")
    story.given("chat", load(memory="9GiB")).settles()
    stood = stands(story)
    assert (stood.phase, stood.ready, stood.wanted, stood.changing) == ("ready", 1, 1, 1)
    assert stood.detail.startswith(
        "chat-0 on alpha serves, and is replaced once a new replica serves: "
    )
    story.runs("chat-1").settles()
    assert stands(story) == ModelStatus("ready", 1, 1)


def test_a_replica_that_is_replaced_in_its_place_serves_no_more() -> None:
    story = placed().runs("chat-0")
    story.given("chat", load(memory="12GiB")).settles()
    assert stands(story) == ModelStatus("loading", 0, 1, "chat-0 on alpha is being replaced")


def test_a_model_that_is_scaled_to_none_is_idle() -> None:
    story = placed().runs("chat-0").given("chat", ModelScaleRequested(0))
    story.settles()
    assert stands(story) == ModelStatus("idle", 0, 0, "it is scaled to 0 replicas")


def test_a_model_that_waits_for_its_first_request_is_asleep() -> None:
    story = cluster(alpha=[80]).given("chat", load(on_request=True))
    story.settles()
    assert stands(story) == ModelStatus("asleep", 0, 0, "it sleeps until the next request")
    story.given("chat", ModelWoken()).settles()
    assert stands(story).phase == "loading"


def test_how_many_replicas_are_wanted_the_load_says_where_it_may() -> None:
    spec = load(2, "2GiB", autoscale=Autoscale(1, 4))
    story = cluster(alpha=[80]).given("chat", spec)
    story.settles()
    assert stands(story).wanted == 2
    story.given("chat", ModelScaled(3)).settles()
    assert (stands(story).wanted, len(story.places())) == (3, 3)


def test_an_unloaded_model_is_unloading_until_its_last_engine_has_ended() -> None:
    story = placed(2).runs("chat-0").runs("chat-1").given("chat", ModelUnloadRequested())
    assert stands(story) == ModelStatus("unloading", 0, 0, "2 engines are still ending")
    story.stops("chat-0")
    assert stands(story) == ModelStatus("unloading", 0, 0, "1 engine is still ending")


def test_the_time_of_loading_is_that_of_the_oldest_start() -> None:
    story = placed(2)
    assert loading_seconds(story.state, story.model(), now=99 * SECOND) == 0
    story.runs("chat-0", ready=False).runs("chat-1", ready=False)
    began = story.engine("chat-0").started
    assert loading_seconds(story.state, story.model(), began + 7 * SECOND) == 7
    assert loading_seconds(story.state, story.model(), began - 7 * SECOND) == 0
    story.runs("chat-0").runs("chat-1")
    assert loading_seconds(story.state, story.model(), began + 7 * SECOND) == 0
