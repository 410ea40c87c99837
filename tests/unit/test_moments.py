"""Moments as people name them: sequences, times, and how long ago."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.history.moments import BadMoment, Moment, clock, parse

SECOND = 10**9
NOW = int(datetime(2026, 11, 23, 15, 30).astimezone().timestamp()) * SECOND


def local(*when: int) -> int:
    return int(datetime(*when).astimezone().timestamp()) * SECOND  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("4711", Moment(seq=4711)),
        (" 1 ", Moment(seq=1)),
        ("15m", Moment(time=NOW - 15 * 60 * SECOND)),
        ("90 s ago", Moment(time=NOW - 90 * SECOND)),
        ("1.5h", Moment(time=NOW - 5400 * SECOND)),
        ("2d", Moment(time=NOW - 2 * 86400 * SECOND)),
        ("999999d", Moment(time=0)),
        ("9" * 400 + "d ago", Moment(time=0)),
        ("2026-11-23T03:00", Moment(time=local(2026, 11, 23, 3))),
        ("2026-11-23 03:00:01", Moment(time=local(2026, 11, 23, 3, 0, 1))),
        ("2026-11-22", Moment(time=local(2026, 11, 22))),
        ("15:29", Moment(time=local(2026, 11, 23, 15, 29))),
        ("15:31", Moment(time=local(2026, 11, 22, 15, 31))),
        ("2026-11-23T03:00:00Z", Moment(time=1795402800 * SECOND)),
        ("2026-11-23T03:00:00+02:00", Moment(time=1795395600 * SECOND)),
    ],
)
def test_a_moment_is_read(text: str, moment: Moment) -> None:
    assert parse(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "soon", "25:00", "2026-13-01", "1w", "1" * 30, "²", "9999-12-31x"]
)
def test_what_is_not_a_moment_is_refused(text: str) -> None:
    with pytest.raises(BadMoment):
        parse(text, NOW)


@given(st.text(max_size=20))
def test_reading_raises_nothing_else(text: str) -> None:
    with suppress(BadMoment):
        parse(text, NOW)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "there is no sequence 0: a log begins with 1"),
        ("9" * 30, "there is no sequence 999999999999999999…: a log can't be that long"),
    ],
)
def test_a_sequence_that_no_log_has_is_told_so(text: str, reason: str) -> None:
    with pytest.raises(BadMoment, match=reason):
        parse(text, NOW)


def test_all_that_was_stored_by_then_belongs() -> None:
    assert not Moment(seq=3).passed(3, 10)
    assert Moment(seq=3).passed(4, 10)
    assert not Moment(time=10).passed(99, 10)
    assert Moment(time=10).passed(1, 11)


def test_without_a_moment_everything_belongs() -> None:
    assert not Moment().passed(10**18, 10**30)


def test_a_window_begins_with_its_first_moment() -> None:
    assert [Moment(seq=2).reached(seq, 0) for seq in (1, 2, 3)] == [False, True, True]
    assert [Moment(time=2).reached(9, time) for time in (1, 2, 3)] == [False, True, True]
    assert not Moment().reached(10**18, 10**30), "nothing lies after the end of the log"


@given(st.integers())
def test_any_time_can_be_written(time: int) -> None:
    assert clock(time)


@given(st.integers(0, 4 * 10**18))
def test_a_written_time_is_read_again(time: int) -> None:
    found = parse(clock(time), NOW)
    assert found.time is not None
    assert abs(found.time - time) < 10**6 + 1000


def test_a_time_of_day_that_is_now_is_today_and_a_later_one_was_yesterday() -> None:
    now = int(datetime.fromisoformat("2026-11-23T03:00:00").astimezone().timestamp()) * 10**9
    assert parse("03:00", now) == Moment(time=now)
    assert parse("03:00:01", now) == Moment(time=now - 86399 * 10**9)
    assert parse("02:59:59", now) == Moment(time=now - 10**9)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("2m", 120), ("2h", 7200), ("2d", 172800)]
)
def test_how_long_ago_is_read_in_its_unit(text: str, seconds: int) -> None:
    now = 10**18
    assert parse(text, now) == parse(f"{text} ago", now) == Moment(time=now - seconds * 10**9)
