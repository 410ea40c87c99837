"""A loop that fails again and again says so once a minute, and how often it was."""

from __future__ import annotations

import itertools
import logging

from hypothesis import given
from hypothesis import strategies as st

from nebula.cli.repeating import Repeating
from nebula.store.repetitions import AGAIN, REMEMBERED


class Log:
    """What is written, by a clock of its own."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.written: list[str] = []
        self._filter = Repeating(lambda: self.clock)

    def say(self, text: str, level: int = logging.WARNING, error: Exception | None = None) -> None:
        info = (type(error), error, None) if error is not None else None
        record = logging.LogRecord("nebula.x", level, "", 1, "%s", (text,), info)
        if self._filter.filter(record):
            self.written.append(record.getMessage())


def test_what_is_repeated_is_written_once_a_minute_with_how_often_it_was_said() -> None:
    log = Log()
    for _ in range(130):
        log.say("JetStream is not enabled")
        log.clock += 0.5
    assert log.written == [
        "JetStream is not enabled",
        "JetStream is not enabled (said 119 times more)",
    ]


def test_other_lines_other_errors_and_what_is_not_a_warning_are_written() -> None:
    log = Log()
    for _ in range(2):
        log.say("a")
        log.say("b")
        log.say("started", logging.INFO)
        log.say("failed", error=ValueError("1"))
        log.say("failed", error=ValueError("2"))
    assert log.written == ["a", "b", "started", "failed", "failed", "started"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 40)), max_size=60))
def test_no_line_comes_twice_within_a_minute_and_none_is_lost(
    said: list[tuple[str, float]],
) -> None:
    log, at = Log(), dict[str, list[float]]()
    for text, pause in said:
        before = len(log.written)
        log.say(text)
        if len(log.written) > before:
            at.setdefault(text, []).append(log.clock)
        log.clock += pause
    assert set(at) == {text for text, _ in said}
    assert all(b - a >= AGAIN for times in at.values() for a, b in itertools.pairwise(times))


def test_what_is_remembered_has_a_bound() -> None:
    log = Log()
    for number in range(REMEMBERED + 10):
        log.say(str(number))
    log.say("0")
    assert log.written.count("0") == 2
