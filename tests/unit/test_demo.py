"""How `nebula up --demo` tells of its models: each when it answers, and what they do till then."""

from io import StringIO

import pytest
from rich.console import Console

from nebula.cli import demo, meanwhile
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded, NodeStopped
from nebula.history.outcome import asked
from tests.unit.story import Story, cluster, gpus, load
from tests.unit.test_progress import Told

pytestmark = pytest.mark.anyio


def two() -> Story:
    """Return a story with two models that have a place each, and no engine yet."""
    story = cluster(n1=[80], n2=[80])
    story.given("first", load(memory="60GiB")).given("second", load(memory="60GiB"))
    story.settles()
    return story


async def said(story: Story, *happenings: object) -> tuple[bool, list[str]]:
    """Return whether all came up, and the lines that were told meanwhile."""
    told = Told(story, *happenings)  # type: ignore[arg-type]
    wishes = [asked(story.state, model, story.state.seq) for model in ("first", "second")]
    output = StringIO()
    console = Console(file=output, width=200)
    served = await demo.follow_all(told, wishes, console, lambda model: f"try {model}")
    return served, output.getvalue().splitlines()


async def test_each_model_is_told_when_it_answers_in_whatever_order() -> None:
    story = two()
    served, lines = await said(
        story, lambda: story.runs("second-0"), story.settles, lambda: story.runs("first-0")
    )
    assert served
    assert [line for line in lines if line.startswith("try")] == ["try second", "try first"]


async def test_a_model_that_does_not_come_keeps_no_other_from_being_told() -> None:
    story = two()
    served, lines = await said(
        story, lambda: story.gives_up("first-0"), lambda: story.runs("second-0")
    )
    assert not served
    assert any(line.startswith("first is failed") for line in lines)
    assert lines[-1] == "try second"


async def test_what_is_awaited_is_told_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meanwhile, "FIRST", 0.0)
    story = two()
    _, lines = await said(story, lambda: story.runs("second-0"), lambda: story.runs("first-0"))
    assert "first-0 on n1 waits to be started; second-0 on n2 waits to be started (0 s)" in lines


@pytest.mark.parametrize("model", [demo.CHAT, demo.EMBEDDING, demo.ADAPTER])
def test_how_to_try_a_model_is_told_with_its_name(model: str) -> None:
    assert model in demo.tries(model, "http://127.0.0.1:8000")


def test_the_demo_begins_once_a_node_is_there_that_was_not_stopped() -> None:
    story = Story().given("lab", ClusterFounded("lab", VERSION)).given("n1", gpus(80))
    assert demo.has_a_node(story.state)
    story.given("n1", NodeStopped())
    assert not demo.has_a_node(story.state)
    story.given("n1", gpus(80))
    assert demo.has_a_node(story.state)
