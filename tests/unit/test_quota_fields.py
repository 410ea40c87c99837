"""What the header fields of an answer say about limits, for OpenAI's and Anthropic's clients."""

from typing import Any, cast

import pytest

from nebula.actors.gateway.allowance import Allowance, Reservation, settle
from nebula.actors.gateway.limiting import Limited, Limiting
from nebula.events.ledger import Meter, Tally
from nebula.http import quota_fields

NOON = 1_790_000_000 // 86_400 * 86_400 + 43_200


class Holder:
    """Stands for the limits of one gateway, which holds all of them."""

    def __init__(self, *limited: Limited) -> None:
        self.wall = self.seen = NOON + 0.25
        self._each = {each.subject: Allowance("g", each.limits) for each in limited}
        for allowance in self._each.values():
            allowance.until = 1.0
            for purse in allowance.purses.values():
                purse.turn(self.wall)
                purse.held = purse.limit

    def allowances(self, limited: tuple[Limited, ...]) -> list[Allowance]:
        return [self._each[each.subject] for each in limited]

    def take(self, tokens: int) -> Reservation:
        for allowance in self._each.values():
            assert not allowance.lacks(tokens, 0.0, self.wall)
        return [allowance.take(tokens, 0.0, self.wall) for allowance in self._each.values()]


KEY = Limited(("key", "k"), {Meter.REQUESTS: 10, Meter.DAY: 5000, Meter.IN_FLIGHT: 3})
TENANT = Limited(("tenant", "lab"), {Meter.TOKENS: 600})


def told(holder: Any, *limited: Limited, dialect: Any = "openai") -> dict[str, str]:
    return quota_fields.texts(cast("Limiting", holder), limited, dialect)


def test_the_fields_tell_of_the_limit_that_has_the_least_left() -> None:
    holder = Holder(KEY, TENANT)
    reserved = holder.take(100)
    assert told(holder, KEY, TENANT) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "1m0s",
    }
    settle(reserved, 30)
    assert told(holder, KEY, TENANT)["x-ratelimit-remaining-tokens"] == "570"
    assert told(holder, KEY)["x-ratelimit-remaining-tokens"] == "4970"
    assert told(holder, KEY)["x-ratelimit-reset-tokens"] == "12h0m0s"


def test_what_other_gateways_have_spent_or_use_is_not_left() -> None:
    holder = Holder(TENANT)
    (allowance,) = holder.allowances((TENANT,))
    (purse,) = allowance.purses.values()
    purse.tally, purse.others, purse.others_idle = Tally(purse.window, 50), 30, 10
    assert told(holder, TENANT)["x-ratelimit-remaining-tokens"] == "530"
    (purse,) = allowance.purses.values()
    purse.tally = Tally(purse.window - 60, 50)
    assert told(holder, TENANT)["x-ratelimit-remaining-tokens"] == "580"
    (purse,) = allowance.purses.values()
    purse.spent = 900
    assert told(holder, TENANT)["x-ratelimit-remaining-tokens"] == "0"


def test_lines_that_are_kept_tell_what_is_left_now() -> None:
    holder = Holder(KEY)
    lines = quota_fields.AllLimitLines(cast("Limiting", holder)).of((KEY,), "openai")

    def remaining() -> list[bytes]:
        text = lines()
        assert text.endswith(b"\r\n")
        return [
            line for line in text.split(b"\r\n") if b"-remaining-" in line or b"-reset-" in line
        ]

    first = remaining()
    reserved = holder.take(100)
    assert remaining() == [
        b"x-ratelimit-remaining-requests: 9",
        b"x-ratelimit-reset-requests: 1m0s",
        b"x-ratelimit-remaining-tokens: 4900",
        b"x-ratelimit-reset-tokens: 12h0m0s",
    ]
    settle(reserved, None)
    assert remaining() == first
    holder.wall = holder.seen = NOON + 1.25
    assert b"x-ratelimit-reset-requests: 59s" in remaining()
    (purse,) = [each for each in holder.allowances((KEY,))[0].purses.values() if each.of_tokens]
    purse.spent = 6000
    assert b"x-ratelimit-remaining-tokens: 0" in remaining()


def test_anthropics_clients_get_their_names_and_a_moment() -> None:
    holder = Holder(TENANT)
    assert told(holder, TENANT, dialect="anthropic") == {
        "anthropic-ratelimit-tokens-limit": "600",
        "anthropic-ratelimit-tokens-remaining": "600",
        "anthropic-ratelimit-tokens-reset": "2026-09-21T12:01:00Z",
    }


def test_a_limit_of_requests_in_flight_alone_has_no_fields() -> None:
    limited = Limited(("key", "k"), {Meter.IN_FLIGHT: 3})
    assert told(Holder(limited), limited) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, b"0s"), (0, b"0s"), (59, b"59s"), (360, b"6m0s"), (3661, b"1h1m1s")],
)
def test_a_time_is_written_as_go_writes_it(seconds: int, text: bytes) -> None:
    assert quota_fields.duration(seconds) == text
