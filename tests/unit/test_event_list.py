"""How `nebula events` lists events: under a header, in columns, with what was not acted upon."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from nebula.events.vocabulary import EventRejected
from nebula.store.archive import write
from tests.unit.story import Story, cluster

LONG = "a-model-with-a-name-that-goes-on-for-long"


def listed(story: Story, folder: Path, *options: str) -> list[str]:
    """Return the lines of `nebula events`."""
    path = folder / "log.jsonl"
    path.write_bytes(b"".join(write(story.entries, len(story.entries))))
    ended = CliRunner().invoke(main, ["events", "--log", str(path), *options])
    assert ended.exit_code == 0, ended.output
    return ended.output.splitlines()


@pytest.fixture
def rejected() -> Story:
    """Return a log with what can't be read, can't be granted, and was answered."""
    story = cluster(n1=[80])
    story.publish("nebula.events.model.bad.ModelLoadRequested", b"{}")
    story.publish("nebula.events.garbage", b"x")
    story.publish(f"nebula.events.model.{'x' * 30}.AdapterUnloadRequested", b'{"name": "poet"}')
    story.publish("nebula.events.model.nobody.ModelUnloadRequested", b"")
    return story.given("4", EventRejected("nebula.events.model.x.ModelUnloadRequested", "no"))


def test_what_was_not_acted_upon_says_why_before_and_after_it_was_answered(
    rejected: Story, tmp_path: Path
) -> None:
    head, bad, garbage, adapter, unload, answer = listed(rejected, tmp_path, "--rejected")
    assert head.split() == ["SEQ", "TIME", "ABOUT", "EVENT", "WHAT"]
    assert "missing required field `source`" in bad
    assert "the subject is not nebula.events." in garbage
    assert "there is no model" in adapter
    assert unload.endswith("asked to unload it; rejected: there is no model 'nobody'")
    assert answer.endswith("event 4 was rejected: no")


def test_the_columns_of_a_list_stand_below_each_other(rejected: Story, tmp_path: Path) -> None:
    head, *lines = listed(rejected, tmp_path)
    for column, starts in [
        ("EVENT", {"NodeRegistered", "EventRejected", "AdapterUnloadRequested"})
    ]:
        at = head.index(column)
        assert starts <= {line[at:].split()[0] for line in lines}
    assert {line[head.index("WHAT") - 1] for line in lines} == {" "}


def test_a_name_that_is_very_long_moves_its_own_line_only(tmp_path: Path) -> None:
    story = cluster(n1=[80])
    story.publish(f"nebula.events.model.{LONG}.ModelUnloadRequested", b"")
    head, node, model = listed(story, tmp_path)
    assert node.index("NodeRegistered") == head.index("EVENT") < model.index("ModelUnload")


def test_where_nothing_was_rejected_it_says_so(tmp_path: Path) -> None:
    story = cluster(n1=[80], n2=[80])
    (line,) = listed(story, tmp_path, "--rejected")
    assert line.startswith("nothing was rejected: all 2 events of ")
