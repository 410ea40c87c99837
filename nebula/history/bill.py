"""What was used, by whatever people ask for. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter

from msgspec import Struct

from nebula.events.usage import UsageSum
from nebula.events.usage_sums import HOUR

GROUPS = ("key", "tenant", "model", "adapter", "user", "path", "day", "hour")
"""What usage can be told apart by. Days and hours are in UTC."""

_SECOND = 10**9


class Line(Struct, frozen=True):
    """What was used by those that have these values in common."""

    values: tuple[str, ...]
    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    estimated: int = 0

    @property
    def total(self) -> int:
        """The tokens of prompts and answers together."""
        return self.prompt + self.completion


def hours(begin: int, end: int) -> tuple[int, int]:
    """Return the hours of a time (ns since the epoch): the first, and that after the last.

    Both are in seconds since 1970.
    """
    until = (end // _SECOND // HOUR + 1) * HOUR
    return min(max(0, begin // _SECOND // HOUR * HOUR), until), until


def lines(sums: Iterable[UsageSum], by: Sequence[str]) -> tuple[Line, ...]:
    """Return what was used by each, in the order of their values."""
    readers = [_reader(group) for group in by]
    found: dict[tuple[str, ...], list[int]] = {}
    for each in sums:  # a month of a large cluster has hundreds of thousands
        values = tuple([read(each) for read in readers])
        counts = found.get(values)
        if counts is None:
            counts = found[values] = [0, 0, 0, 0, 0]
        counts[0] += each.requests
        counts[1] += each.prompt
        counts[2] += each.cached
        counts[3] += each.completion
        counts[4] += each.estimated
    return tuple(Line(values, *counts) for values, counts in sorted(found.items()))


def time_group(since: int, until: int) -> str:
    """Return the group that tells a time (in seconds) apart: hours of two days at most, or days."""
    return "hour" if until - since <= 48 * HOUR else "day"


def most_first(found: Iterable[Line], by: Sequence[str]) -> tuple[Line, ...]:
    """Return lines by time where they are told apart by time, or else the most tokens first."""
    over_time = {"day", "hour"}.intersection(by)
    return tuple(found if over_time else sorted(found, key=lambda each: -each.total))


def having(sums: Iterable[UsageSum], by: Sequence[str], values: Sequence[str]) -> list[UsageSum]:
    """Return the sums that have some values in common."""
    readers = [(_reader(group), value) for group, value in zip(by, values, strict=True)]
    return [each for each in sums if all(read(each) == value for read, value in readers)]


def _reader(group: str) -> Callable[[UsageSum], str]:
    """Return what reads of a sum what it has in common by one of GROUPS."""
    if group == "day":
        return lambda of: _day(of.hour)
    if group == "hour":
        return lambda of: _hour(of.hour)
    read: Callable[[UsageSum], str] = attrgetter(group)
    return read


@lru_cache(1024)
def _day(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour, UTC):%Y-%m-%d}"


@lru_cache(1024)
def _hour(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour, UTC):%Y-%m-%dT%H:00Z}"


def told(line: Line, by: Sequence[str]) -> Mapping[str, str | int]:
    """Return a line as a mapping, for programs."""
    counts = {
        "requests": line.requests,
        "prompt_tokens": line.prompt,
        "cached_tokens": line.cached,
        "completion_tokens": line.completion,
        "total_tokens": line.total,
        "estimated_tokens": line.estimated,
    }
    return {**dict(zip(by, line.values, strict=True)), **counts}
