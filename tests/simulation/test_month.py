"""A month of two tenants, with everything killed: budgets are kept, and the bill is right."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from nebula.actors.gateway.usage_recording import GATHER
from nebula.events.usage import UsageRecord
from nebula.history import bill
from nebula.store import usage_log
from tests.simulation.month import Month, simulate

SEEDS = 4

WRITING = 0.1
"""Seconds that a write takes at most where all is well."""


async def the_bill_is_right(world: Month) -> None:
    """Raise AssertionError unless records, sums and engines agree to the token."""
    link = cast("Any", world.gateways[0].link)
    store = world.gateways[0].recorder.store
    kept = await store.kept()
    assert kept is not None
    found: dict[str, UsageRecord] = {}
    async for said in store.read(0, kept.last):
        assert not said.dropped
        for record in said.records:
            assert record.id not in found, "a request is recorded once"
            found[record.id] = record
    answered = world.figures.answered
    assert found.keys() <= answered.keys()
    for identity, record in found.items():
        asked = answered[identity]
        assert (record.prompt, record.completion) == (asked.prompt, asked.completion)
    world.figures.lost = answered.keys() - found.keys()
    for identity in world.figures.lost:
        ended, gateway = world.figures.ended[identity]
        assert gateway.name in world.killed, "only a killed gateway loses a record"
        if gateway.link.troubled > ended - 10:
            world.figures.excused += 1
        else:
            assert world.killed[gateway.name] - ended <= GATHER + WRITING
    told = await usage_log.usage(link)
    assert (told.fresh, told.lost, told.dropped) == (0, 0, 0), "all is rolled up"
    for by in (("key",), ("tenant", "day"), ("hour", "key")):
        expected: Counter[tuple[str, ...]] = Counter()
        for record in found.values():
            expected[of(record, by)] += record.prompt + record.completion
        assert {line.values: line.total for line in bill.lines(told.sums, by)} == dict(expected)
    recomputed = await usage_log.recomputed(link)
    assert (recomputed.gone, recomputed.differences) == (0, ())
    assert recomputed.checked > 30


def of(record: UsageRecord, by: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a record has in common with others, by a calendar of its own."""
    at = datetime.fromtimestamp(record.time, UTC)
    values = {
        "key": record.key,
        "tenant": record.tenant,
        "day": at.date().isoformat(),
        "hour": f"{at.date().isoformat()}T{at.hour:02}:00Z",
    }
    return tuple(values[each] for each in by)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_month_is_billed_to_the_token_and_within_its_budgets(seed: int) -> None:
    figures = simulate(seed, the_bill_is_right).figures
    assert figures.kills.total() > 50
    assert figures.refused > 50
    assert not figures.vain, "each refusal says when to come again"
    assert figures.over <= figures.stated
