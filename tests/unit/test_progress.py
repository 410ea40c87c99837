"""What `nebula load` and `scale` wait for, and what they say when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from io import StringIO
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from nebula.actors.projection import Projection
from nebula.cli import drain, operate, progress
from nebula.events.intents import (
    AdapterLoadRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    DownloadFailed,
    EngineFailed,
    NodeLost,
)
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.unit.story import Story, cluster, gpus, load

pytestmark = pytest.mark.anyio

Happening = Callable[[], object]


class Told(Projection):
    """A story of which one more thing happens each time somebody waits for it to go on."""

    def __init__(self, story: Story, *happenings: Happening) -> None:
        super().__init__(Log(Connection("nats://nowhere", "test")))
        self.story = story
        self.left = list(happenings)
        self.state = story.state

    def changed(self) -> Coroutine[Any, Any, object]:
        return self._happen()

    async def _happen(self) -> None:
        assert self.left, "it waits for more than there will be"
        self.left.pop(0)()
        self.state = self.story.state
        await asyncio.sleep(0)


async def follow(story: Story, *happenings: Happening) -> tuple[bool, str]:
    """Give whether it was served in the end, and the last line that was said."""
    told = Told(story, *happenings)
    said = StringIO()
    served = await progress.follow(told, "chat", Console(file=said, width=200))
    assert not told.left, "it did not wait for what was still to come"
    return served, said.getvalue().splitlines()[-1]


def served(lora: bool | None = None) -> Story:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", lora=lora))
    story.settles()
    return story.runs("chat-0")


async def test_what_serves_already_is_told_so_once_a_router_has_answered() -> None:
    story = served().given("chat", load(1, "8GiB"))
    assert await follow(story, story.settles) == (True, "chat is ready: 1 of 1 replicas already")


async def test_with_another_launch_the_old_engine_is_not_taken_for_the_new_one() -> None:
    story = served()
    story.given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    ended = await follow(story, story.settles, lambda: story.runs("chat-1"), story.settles)
    assert ended == (True, "chat is ready: 1 of 1 replicas after 4 s")


async def test_a_change_that_was_rolled_back_is_told_and_no_success() -> None:
    story = served()
    story.given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    ended = await follow(
        story,
        story.settles,
        lambda: story.runs("chat-1", ready=False).gives_up("chat-1"),
        story.settles,
    )
    assert ended == (
        False,
        "chat was rolled back to what last worked: chat-1 was given up: ValueError: no; "
        "1 of 1 replicas serve as before",
    )


async def test_the_last_words_of_a_change_that_failed_outlive_its_replica() -> None:
    story = served().given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    last = EngineFailed("ValueError: no", 1, ("Traceback", "ValueError: no"), attempt=3)
    told = Told(
        story,
        story.settles,
        lambda: story.runs("chat-1", ready=False).given("chat-1", last),
        story.settles,
    )
    said = StringIO()
    assert not await progress.follow(told, "chat", Console(file=said, width=200))
    assert said.getvalue().splitlines()[:3] == [
        "The last lines of chat-1 (alpha):",
        "  Traceback",
        "  ValueError: no",
    ]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (
            load(1, "8GiB", on_request=True),
            "chat is asleep: it has no engine until the first request for it comes",
        ),
        (
            load(autoscale=Autoscale(0, 2), memory="8GiB"),
            "chat is ready: 1 of 1 replicas after 3 s",
        ),
        (load(0, "8GiB"), "chat is idle: it has 0 replicas, `nebula scale chat 1` starts one"),
        (
            load(0, "8GiB", autoscale=Autoscale(0, 2)),
            "chat is idle: it has no engine until the first request for it comes",
        ),
    ],
)
async def test_what_is_to_have_no_replicas_says_what_starts_it(
    wish: ModelLoadRequested, words: str
) -> None:
    story = cluster(alpha=[80]).given("chat", wish)
    runs = [lambda: story.runs("chat-0")] if story.model().wanted else []
    assert await follow(story, story.settles, *runs) == (True, words)


async def test_what_serves_and_can_not_be_as_asked_for_says_both() -> None:
    story = served().given("chat", ModelScaleRequested(20))
    runs = (lambda n=n: story.runs(f"chat-{n}") for n in range(1, 9))
    said = StringIO()
    told = Told(story, story.settles, *runs)
    assert not await progress.follow(told, "chat", Console(file=said, width=200))
    how, then = said.getvalue().splitlines()
    assert how.startswith(
        "chat is not as asked for, 9 of 20 replicas serve: 11 of 20 replicas not placed: "
    )
    assert then == "It is placed as soon as it fits. `nebula why chat` tells what to do."


async def test_what_has_failed_before_is_not_what_was_asked_for_now() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0", ready=False).gives_up("chat-0").given("chat", ModelScaleRequested(1))
    ended = await follow(story, story.settles, lambda: story.runs("chat-0"))
    assert ended == (True, "chat is ready: 1 of 1 replicas after 3 s")


async def test_an_adapter_has_taken_the_time_until_it_was_in_place() -> None:
    story = served(lora=True).given("chat", AdapterLoadRequested("poet", "/poet"))
    ended = await follow(story, lambda: story.given("chat-0", AdapterLoaded("poet", "/poet")))
    assert ended == (True, "chat is ready: 1 of 1 replicas after 1 s, with poet")


async def test_a_model_that_lacks_an_adapter_is_not_told_as_ready() -> None:
    story = served(lora=True).given("chat", AdapterLoadRequested("poet", "/poet"))
    failed = AdapterLoadFailed("poet", "/poet", "no such folder")
    ended = await follow(story, lambda: story.given("chat-0", failed))
    assert ended == (False, "chat is not all there: 1 of 1 replicas after 1 s")


async def test_a_download_that_fails_and_is_tried_again_is_told_once() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    source = story.model().spec.source

    def fails() -> object:
        return story.given("alpha", DownloadFailed(source, "the line is down", 8.0))

    told = Told(story, story.settles, fails, fails, lambda: story.runs("chat-0"))
    said = StringIO()
    assert await progress.follow(told, "chat", Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert lines[0] == "alpha could not fetch its files and tries again: the line is down"
    assert lines[1:] == ["chat is ready: 1 of 1 replicas after 5 s"]


async def test_nobody_waits_for_what_is_left_on_a_lost_node_alone() -> None:
    story = served().given("alpha", NodeDrainRequested(), NodeLost())
    said = StringIO()
    assert not await drain.emptied(Told(story), "alpha", Console(file=said, width=200))
    assert said.getvalue().startswith("alpha is lost: what still runs there nobody knows")
    story.given("chat", ModelUnloadRequested())
    assert operate.ending(story.state, "chat")
    assert operate.lost_alone(story.state, "chat")
    story.given("alpha", gpus(80))
    assert not operate.lost_alone(story.state, "chat"), "it is back"
    story.stops("chat-0").settles()
    assert not operate.ending(story.state, "chat")
