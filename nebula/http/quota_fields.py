"""Header fields that tell a client how much of its limits is left, as OpenAI and Anthropic do.

https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits
"""

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from typing import TypeAlias

from litestar.types import Message, Send

from nebula.actors.gateway.allowance import least
from nebula.actors.gateway.limiting import Limited, Limiting
from nebula.events.endpoints import Dialect

_Names: TypeAlias = tuple[bytes, bytes, bytes]


def _names(form: str, what: str) -> _Names:
    limit, remaining, reset = (
        form.format(part=part, what=what).encode() for part in ("limit", "remaining", "reset")
    )
    return limit, remaining, reset


_OPENAI, _ANTHROPIC = (
    (_names(form, "requests"), _names(form, "tokens"))
    for form in ("x-ratelimit-{part}-{what}", "anthropic-ratelimit-{what}-{part}")
)

NAMES = frozenset(name for names in (*_OPENAI, *_ANTHROPIC) for name in names)
"""The names of all these fields."""


def fields(
    limiting: Limiting, limited: Sequence[Limited], dialect: Dialect
) -> list[tuple[bytes, bytes]]:
    """Return the fields that tell how much is left, of what has the least left."""
    anthropic = dialect == "anthropic"
    allowances = limiting.allowances(limited)
    requests = least([purse for each in allowances for purse in each.of_requests])
    tokens = least([purse for each in allowances for purse in each.of_tokens])
    told: list[tuple[bytes, bytes]] = []
    wall = limiting.wall
    for names, found in zip(_ANTHROPIC if anthropic else _OPENAI, (requests, tokens), strict=True):
        if found is not None:
            purse, left = found
            limit, remaining, reset = names
            at = _moment(purse.end) if anthropic else duration(ceil(purse.end - wall))
            told += (limit, b"%d" % purse.limit), (remaining, b"%d" % left), (reset, at)
    return told


def texts(limiting: Limiting, limited: Sequence[Limited], dialect: Dialect) -> dict[str, str]:
    """Return the same fields as texts."""
    told = fields(limiting, limited, dialect)
    return {name.decode(): value.decode() for name, value in told}


@lru_cache(maxsize=1024)
def duration(seconds: int) -> bytes:
    """Return a time as Go writes it, which OpenAI's clients know: `6m0s`."""
    seconds = max(0, seconds)
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest


@lru_cache(maxsize=1024)
def _moment(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


class Telling:
    """A `send` that tells in the answer's head how much of its limits a request leaves."""

    def __init__(
        self, send: Send, limiting: Limiting, limited: Sequence[Limited], dialect: Dialect
    ) -> None:
        self._send = send
        self._about = limiting, limited, dialect

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send a message."""
        if message["type"] == "http.response.start":
            told = fields(*self._about)
            message = {**message, "headers": [*message["headers"], *told]}
        return self._send(message)
