"""Where one engine's output begins in a file that several wrote to, also for a later process."""

from __future__ import annotations

from pathlib import Path

import pytest

from nebula.actors.node import log_marks
from nebula.store import child_output

pytestmark = pytest.mark.anyio


def say(path: Path, text: str) -> None:
    with path.open("a") as output:
        output.write(text)


def own(path: Path) -> tuple[str, ...]:
    return child_output.tail(path, 40, start=log_marks.beginning(path))


def test_an_engines_output_is_what_comes_after_the_last_mark(tmp_path: Path) -> None:
    path = tmp_path / "chat-0.log"
    first = log_marks.begin(path)
    say(path, "ValueError: of the first")  # it ended amid a line
    second = log_marks.begin(path)
    say(path, "of the second\n")
    assert child_output.tail(path, 40, start=second) == ("of the second",)
    assert log_marks.beginning(path) == second
    assert own(path) == ("of the second",)
    assert "ValueError: of the first" in child_output.tail(path, 40, start=first)


def test_an_engine_that_has_said_nothing_yet_has_no_words(tmp_path: Path) -> None:
    path = tmp_path / "chat-0.log"
    say(path, "ValueError: of the one before\n")
    log_marks.begin(path)
    assert own(path) == ()


def test_without_a_mark_near_the_end_all_of_the_end_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "chat-0.log"
    assert log_marks.beginning(path) is None
    log_marks.begin(path)
    say(path, "x\n" * child_output.TAIL)
    assert log_marks.beginning(path) is None
    assert set(own(path)) == {"x"}


async def test_it_is_known_again_after_the_file_was_turned_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat-0.log"
    say(path, "old\n" * 1000)
    begun = log_marks.begin(path)
    say(path, "new\n")
    assert await child_output.turn_over(path, 100)
    say(path, "newer\n")
    assert log_marks.beginning(path) == begun
    assert own(path) == ("new", "newer")
    monkeypatch.setattr(child_output, "_turned", {})  # as in the next process of the node
    assert own(path) == ("new", "newer")
