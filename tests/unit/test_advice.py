"""What is advised names the cause that is known, and nothing that would not help."""

import errno
import os
import signal
from typing import Any

import pytest

from nebula.actors.node import permanent
from nebula.events.intents import ModelScaleRequested, NodeDrainRequested
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadStarted,
    EngineFailed,
    EngineStarted,
    NodeLost,
)
from nebula.history.advice import advice, disk_is_full
from tests.unit.story import Story, cluster, load

SOURCE = "/m"


def told(story: Story) -> str:
    """Return what is advised about the story's model."""
    return advice(story.state, story.model("chat"))


def placed(**fields: Any) -> Story:
    """Return a story with a model that has a place and no engine yet."""
    story = cluster(n1=[80]).given("chat", load(memory="8GiB", **fields))
    story.settles()
    return story


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGKILL])
def test_nothing_is_to_be_mended_in_an_engine_that_was_ended_from_outside(code: int) -> None:
    story = placed()
    story.given("chat-0", EngineFailed("killed by signal 9", code, attempt=1, retry_in=1.0))
    assert "Mend" not in told(story)
    assert told(story).startswith("Find out what ended its process on n1")
    story.given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1, attempt=2))
    assert told(story) == (
        "Wait: attempt 2 is under way, and the engine before it was killed, not faulty."
    )


@pytest.mark.parametrize("code", [1, -signal.SIGSEGV, None])
def test_what_an_engine_died_of_by_itself_is_to_be_mended(code: int | None) -> None:
    story = placed().given("chat-0", EngineFailed("no", code, attempt=1, retry_in=1.0))
    assert told(story).startswith(
        "Fix what its engine complains of (`nebula logs chat-0` shows all it wrote)"
    )


def test_a_machine_without_memory_is_named_as_the_cause() -> None:
    reason = (
        "killed by signal 9; the kernel's memory killer has ended a process of this machine then"
    )
    story = placed().given("chat-0", EngineFailed(reason, -9, attempt=1, retry_in=1.0))
    assert told(story).startswith("Run less on n1, or load it with less memory")


def test_a_disk_is_to_be_cleared_only_where_it_is_full_and_something_can_go() -> None:
    story = placed()
    story.given("n1", DownloadFailed(SOURCE, "the hub answers with 401", 8.0))
    assert told(story) == f"Fix what keeps n1 from fetching {SOURCE}; it tries again by itself."
    full = f"{SOURCE} needs 9 GiB more on the disk of /cache, which has 1 GiB left"
    story.given("n1", DownloadFailed(SOURCE, full, 8.0))
    assert "prune" not in told(story)
    assert "another --weights-folder" in told(story)
    story.given("n1", DownloadStarted("org/old", total=1)).given(
        "n1", DownloadFinished("org/old", 1)
    )
    assert "`nebula weights prune n1` removes what no model needs" in told(story)


def test_a_full_disk_is_known_by_the_words_of_the_system_too() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert disk_is_full(str(OSError(number, os.strerror(number), "/cache/blob")))
    assert not disk_is_full("the hub answers with 404")


def test_a_model_that_scales_by_itself_is_not_asked_for_by_a_number() -> None:
    story = placed(autoscale=Autoscale(1, 4))
    story.given("chat-0", EngineFailed("no", 1, attempt=3, retry_in=None))
    assert "nebula scale" not in told(story)
    fixed = placed().given("chat-0", EngineFailed("no", 1, attempt=3, retry_in=None))
    assert "`nebula scale chat 1`" in told(fixed)
    assert told(fixed.given("chat", ModelScaleRequested(0))) == (
        "Give it replicas: `nebula scale chat 1`."
    )


def test_a_node_that_is_lost_and_drained_is_to_be_started_and_then_opened() -> None:
    story = cluster(n1=[80], n2=[8]).given("n1", NodeDrainRequested(), NodeLost("silent"))
    story.given("chat", load(memory="40GiB")).settles()
    assert story.model().unschedulable
    text = told(story)
    assert "tart the lost node n1 again (`nebula node --name n1` on its machine, then" in text
    assert text.count("`nebula drain n1 --undo`") == 1


def test_of_several_nodes_each_is_named_with_what_opens_it() -> None:
    story = cluster(n1=[80], n2=[80], n3=[8])
    story.given("n1", NodeDrainRequested()).given("n2", NodeLost("silent"))
    story.given("chat", load(memory="40GiB")).settles()
    text = told(story)
    assert "start the lost node n2 again" in text.lower()
    assert "nebula drain n1 --undo" in text
    assert "nebula drain n2 --undo" not in text


def test_what_can_only_fail_again_is_not_advised_to_be_requested_again() -> None:
    reason = permanent.told("unrecognized arguments: --no-such 1", "load it without that option")
    story = placed().given("chat-0", EngineFailed(reason, 2, attempt=1, retry_in=None))
    assert (
        told(story) == "Load it without that option. As it is, it would fail again in the same way."
    )


def test_a_model_that_is_idle_needs_nothing_until_a_request_comes() -> None:
    story = placed(on_request=True)
    assert story.model().asleep
    assert told(story) == ""
