"""What was used, by whatever people ask for. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from nebula.events.usage import UsageSum

GROUPS = ("key", "tenant", "model", "adapter", "user", "path", "day", "hour")
"""What usage can be told apart by. Days and hours are in UTC."""

COUNTS = ("requests", "prompt", "cached", "completion", "estimated")


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


def lines(sums: Iterable[UsageSum], by: Sequence[str]) -> tuple[Line, ...]:
    """Return what was used by each, in the order of their values."""
    found: dict[tuple[str, ...], list[int]] = {}
    for each in sums:
        values = tuple(value(each, group) for group in by)
        counts = found.setdefault(values, [0] * len(COUNTS))
        for at, name in enumerate(COUNTS):
            counts[at] += getattr(each, name)
    return tuple(Line(values, *counts) for values, counts in sorted(found.items()))


def value(of: UsageSum, group: str) -> str:
    """Return what a sum has in common by one of GROUPS."""
    if group == "day":
        return f"{datetime.fromtimestamp(of.hour, UTC):%Y-%m-%d}"
    if group == "hour":
        return f"{datetime.fromtimestamp(of.hour, UTC):%Y-%m-%dT%H:00Z}"
    return str(getattr(of, group))


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
