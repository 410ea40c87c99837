"""Which limits hold, and what a batch is told of its budgets."""

import pytest
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.events.key import Key
from nebula.events.state import EMPTY, State
from nebula.events.usage_limits import UsageLimits
from nebula.history.limits import budget_texts, budgets_of, present_limits

DAY = UsageLimits(tokens_per_day=700, in_flight=2)
MONTH = UsageLimits(tokens_per_month=2000)


def key(identity: str, limits: UsageLimits = DAY, **fields: object) -> Key:
    return Key(id=identity, hash="h", scopes=("infer",), limits=limits, **fields)  # type: ignore[arg-type]


def state(*keys: Key) -> State:
    there = HashTrieMap({each.id: each for each in keys})
    return replace(EMPTY, keys=there, limits=HashTrieMap({"tenant.lab": MONTH}))


def test_limits_of_keys_are_among_those_that_hold_until_the_key_is_revoked() -> None:
    found = present_limits(state(key("ci"), key("none", UsageLimits()), key("gone", revoked_ns=1)))
    assert list(found.items()) == [("key.ci", DAY), ("tenant.lab", MONTH)]


def test_a_batch_takes_from_the_budgets_of_its_key_and_of_its_tenant() -> None:
    known = state(key("ci", tenant="lab"), key("free", UsageLimits()))
    assert budgets_of(known, "key:ci") == {
        ("key", "ci"): {"tokens_per_day": 700},
        ("tenant", "lab"): {"tokens_per_month": 2000},
    }
    for owner in ("key:free", "key:unknown", "", "ci", "0123456789abcdef"):
        assert budgets_of(known, owner) == {}


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({}, "has used 0 of 700 tokens per day: lines that may take more than 700 wait"),
        (
            {"tokens_per_day": 690},
            "has used 690 of 700 tokens per day: lines that may take more than 10 wait",
        ),
        ({"tokens_per_day": 700}, "has used 700 of 700 tokens per day: its lines wait"),
        ({"tokens_per_day": 711}, "has used 711 of 700 tokens per day: its lines wait"),
    ],
)
def test_a_batch_is_told_what_is_left_of_a_budget(used: dict[str, int], words: str) -> None:
    assert budget_texts(("key", "ci"), {"tokens_per_day": 700}, used) == [f"key 'ci' {words}"]
