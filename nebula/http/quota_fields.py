"""Header fields that tell a client how much of its limits is left, as OpenAI and Anthropic do.

https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, floor

from nebula.actors.gateway.headroom import Headroom, Left
from nebula.actors.gateway.limiting import MOST, Limited, Limiting
from nebula.events.endpoints import Dialect


def _template(form: str, what: str) -> bytes:
    """Return the lines of a request's or of tokens' limits, whose remainder is filled in last."""
    limit, remaining, reset = (
        form.format(part=part, what=what) for part in ("limit", "remaining", "reset")
    )
    return f"{limit}: %d\r\n{remaining}: %%d\r\n{reset}: %b\r\n".encode()


_OTHERS, _ANTHROPIC = (
    (_template(form, "requests"), _template(form, "tokens"))
    for form in ("x-ratelimit-{part}-{what}", "anthropic-ratelimit-{what}-{part}")
)


class LimitLines:
    """The lines of these fields, for requests with the same limits.

    While nothing but what is left changes, only that is written anew: where one subject has limits,
    of requests and of tokens.
    """

    __slots__ = (
        *("_anthropic", "_headroom", "_limited", "_limiting"),
        *("_requests", "_text", "_tokens", "_until", "_version"),
    )

    def __init__(
        self, limiting: Limiting, limited: Sequence[Limited], dialect: Dialect = "openai"
    ) -> None:
        self._limiting = limiting
        self._limited = limited
        self._anthropic = dialect == "anthropic"
        self._headroom: Headroom | None = None
        self._version, self._until = -1, 0
        self._text = b""
        self._requests = self._tokens = 0

    def __call__(self) -> bytes:
        """Return how much is left, of what has the least left; empty if nothing is counted."""
        headroom = self._headroom
        if (
            headroom is None
            or headroom.version != self._version
            or self._limiting.seen >= self._until
        ):
            return self._renewed()
        requests = self._requests + headroom.requests
        tokens = self._tokens + headroom.tokens
        return self._text % (requests if requests > 0 else 0, tokens if tokens > 0 else 0)

    def _renewed(self) -> bytes:
        allowances = self._limiting.allowances(self._limited)
        opened = [allowance.opened() for allowance in allowances]
        left = [
            min(filter(None, (each.of_requests for each in opened)), key=_amount, default=None),
            min(filter(None, (each.of_tokens for each in opened)), key=_amount, default=None),
        ]
        wall = self._limiting.wall
        text, amounts = b"", []
        for template, found in zip(_ANTHROPIC if self._anthropic else _OTHERS, left, strict=True):
            if found is not None:
                purse, amount = found
                reset = _moment(purse.end) if self._anthropic else duration(ceil(purse.end - wall))
                text += template % (purse.limit, reset)
                amounts.append(amount)
        if len(opened) == 1 and len(amounts) == len(left):
            self._headroom, self._version = opened[0], opened[0].version
            self._requests = amounts[0] - opened[0].requests
            self._tokens = amounts[1] - opened[0].tokens
            self._text, self._until = text, floor(wall) + 1
        return text % tuple(max(0, amount) for amount in amounts)


def _amount(left: Left) -> int:
    return left[1]


class AllLimitLines:
    """The lines for all requests of a gateway, remembered by their limits."""

    def __init__(self, limiting: Limiting) -> None:
        self._limiting = limiting
        self._known: dict[tuple[int, Dialect], tuple[Sequence[Limited], LimitLines]] = {}

    def of(self, limited: Sequence[Limited], dialect: Dialect) -> LimitLines:
        """Return the lines for requests with these limits, in a client's dialect."""
        place = id(limited), dialect
        known = self._known.get(place)
        if known is None or known[0] is not limited:
            if len(self._known) >= MOST:
                self._known.clear()
            known = self._known[place] = limited, LimitLines(self._limiting, limited, dialect)
        return known[1]


def texts(limiting: Limiting, limited: Sequence[Limited], dialect: Dialect) -> dict[str, str]:
    """Return the same fields as texts by name."""
    lines = LimitLines(limiting, limited, dialect)().decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


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
