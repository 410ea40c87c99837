"""Moments of a log as people write them: a sequence, a time, or how long ago."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from msgspec import Struct

from nebula.events.record import Entry, Record

E = TypeVar("E", Entry, Record)

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadMoment(ValueError):
    """The text is not a moment of the log; the message says why."""


class Moment(Struct, frozen=True):
    """Either a sequence, or a time in nanoseconds since the epoch, with all stored by then.

    Without either it is the end of the log.
    """

    seq: int | None = None
    time: int | None = None

    def passed(self, seq: int, time: int) -> bool:
        """Return whether an entry lies after this moment."""
        if self.seq is not None:
            return seq > self.seq
        return self.time is not None and time > self.time

    def before(self, entries: Sequence[E]) -> Sequence[E]:
        """Return the entries up to the first that lies after this moment."""
        if self.seq is None and self.time is None:
            return entries
        after = (at for at, each in enumerate(entries) if self.passed(each.seq, each.time))
        return entries[: next(after, None)]

    def reached(self, seq: int, time: int) -> bool:
        """Return whether an entry belongs to a window that begins with this moment.

        None does to a window that begins with the end of the log.
        """
        if self.seq is not None:
            return seq >= self.seq
        return self.time is not None and time >= self.time


def parse(text: str, now: int) -> Moment:
    """Read `4711`, `2026-11-23T03:00`, `03:00`, `15m` (ago) or `now`.

    `now` is in nanoseconds since the epoch. Raise BadMoment for anything else.
    A time without a zone is in this machine's zone; a time without a date is the most recent one.
    """
    text = text.strip()
    if text == "now":
        return Moment(time=now)
    if text.isascii() and text.isdigit():
        if len(text) > 18:
            raise BadMoment(f"there is no sequence {text[:18]}…: a log can't be that long")
        if int(text) == 0:
            raise BadMoment(f"there is no sequence {text}: a log begins with 1")
        return Moment(seq=int(text))
    ago = _AGO.fullmatch(text)
    if ago is not None:
        seconds = min(float(ago[1]) * _SECONDS[ago[2]], now / 1e9)  # nothing is older than 1970
        return Moment(time=now - int(seconds * 10**9))
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d+)?)?", text):
            today = datetime.fromtimestamp(now / 1e9).astimezone()
            clock = datetime.fromisoformat(f"{today:%Y-%m-%d}T{text}").astimezone()
            seconds = clock.timestamp()
            return Moment(time=int((seconds if seconds * 1e9 <= now else seconds - 86400) * 10**9))
        return Moment(
            time=int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1e6) * 1000
        )
    except (ValueError, OverflowError) as error:
        raise BadMoment(
            f"{text!r} is not a moment: give a sequence (4711), a time (2026-11-23T03:00, 03:00) "
            "or how long ago (15m, now)"
        ) from error


def clock(time: int) -> str:
    """Return a time for people, in this machine's zone: `2026-11-23 03:00:00.123`."""
    try:
        moment = datetime.fromtimestamp(time / 1e9).astimezone()
    except (ValueError, OverflowError, OSError):  # not in the years 1 to 9999
        return f"{time} ns since 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
