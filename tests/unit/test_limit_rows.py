"""Limits as the console lists them: what is left of each."""

from nebula.events.usage_limits import UsageLimits
from nebula.http.console.limit_rows import limit_rows


def test_what_is_left_is_never_less_than_nothing() -> None:
    (row,) = limit_rows("key", "ci", UsageLimits(in_flight=2), {"in_flight": 3})
    assert (row.name, row.limit, row.used, row.left) == ("in_flight", 2, 3, 0)


def test_what_is_left_is_unknown_where_nothing_is_counted_or_known() -> None:
    limits = UsageLimits(max_tokens=5, priority=(0, 4), in_flight=2)
    counted = {row.name: row.left for row in limit_rows("key", "ci", limits, {"in_flight": 0})}
    assert counted == {"in_flight": 2, "priority": None, "max_tokens": None}
    assert [row.left for row in limit_rows("key", "ci", limits, None)] == [None] * 3
    assert [row.limit for row in limit_rows("key", "ci", limits, None)] == [2, "0 to 4", 5]
