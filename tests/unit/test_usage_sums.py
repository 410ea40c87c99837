"""Laws of usage: what is summed does not depend on the order, and is the same bill as its parts."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.usage import UsageRecord, UsageRolledUp, UsageSum
from nebula.events.usage_sums import OTHERS, USERS, RollUp, Sums, difference, without_users

RECORDS = st.builds(
    UsageRecord,
    id=st.uuids().map(str),
    time=st.integers(0, 10) | st.integers(3590, 3610),
    key=st.sampled_from(["a", "b"]),
    model=st.sampled_from(["chat", "embed"]),
    path=st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]),
    tenant=st.sampled_from(["", "t"]),
    user=st.sampled_from(["", "u", "v"]),
    prompt=st.integers(0, 2**40),
    cached=st.integers(0, 9),
    completion=st.integers(0, 2**40),
    counted=st.sampled_from(["engine", "tokens", "events"]),
)
MESSAGES = st.lists(st.lists(RECORDS, max_size=4), max_size=8)


def summed(records: list[UsageRecord]) -> tuple[UsageSum, ...]:
    sums = Sums()
    for each in records:
        sums.take(each)
    return sums.rows()


def rolled_up(messages: list[tuple[int, list[UsageRecord]]], after: int) -> UsageRolledUp:
    adding = RollUp(after)
    for seq, records in messages:
        adding.take(seq, records, 0)
    return adding.event()


@given(st.lists(RECORDS), st.randoms())
def test_sums_do_not_depend_on_the_order(records: list[UsageRecord], random: object) -> None:
    mixed = records.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert summed(mixed) == summed(records)
    rows = summed(records)
    for name in ("prompt", "cached", "completion"):
        told = sum(getattr(each, name) for each in records)
        assert sum(getattr(row, name) for row in rows) == told
    assert sum(row.requests for row in rows) == len(records)


@given(MESSAGES, st.integers(0, 8), st.lists(st.integers(0, 7)))
def test_what_is_rolled_up_and_the_rest_are_all(
    messages: list[list[UsageRecord]], cut: int, again: list[int]
) -> None:
    numbered = list(enumerate(messages, 1))
    repeated = numbered + [numbered[at] for at in again if at < len(numbered)]
    first = rolled_up(repeated[:cut], 0)
    rest = rolled_up(repeated, first.until)
    total = Sums()
    for row in (*first.sums, *rest.sums):
        total.add(row)
    assert total.rows() == summed([each for records in messages for each in records])
    assert first.lost == rest.lost == 0


@given(MESSAGES)
def test_the_same_records_give_the_same_bill(messages: list[list[UsageRecord]]) -> None:
    said = rolled_up(list(enumerate(messages, 1)), 0)
    mixed = [list(reversed(records)) for records in messages]
    assert not difference(said, rolled_up(list(enumerate(mixed, 1)), 0))


@given(MESSAGES.filter(any), RECORDS)
def test_one_record_too_many_is_a_difference(
    messages: list[list[UsageRecord]], more: UsageRecord
) -> None:
    said = rolled_up(list(enumerate(messages, 1)), 0)
    found = rolled_up(list(enumerate([*messages[:-1], [*messages[-1], more]], 1)), 0)
    assert difference(said, found)


def test_messages_that_the_stream_dropped_are_counted() -> None:
    adding = RollUp(3)
    adding.take(6, [], 2)
    adding.take(8, [], 0)
    event = adding.event(10)
    assert (event.after, event.until, event.lost, event.dropped) == (3, 10, 5, 2)


def test_many_users_of_a_key_are_summed_together_and_nothing_of_them_is_lost() -> None:
    records = [
        UsageRecord(str(at), 7, "k", "chat", "/v1/chat/completions", user=f"u{at}", prompt=1)
        for at in range(USERS + 10)
    ]
    said = rolled_up([(1, records)], 0)
    assert {row.user: row.requests for row in said.sums}[OTHERS] == 10
    assert len(said.sums) == USERS + 1
    assert without_users(said.sums) == without_users(summed(records))


def test_an_event_takes_all_rows_that_it_may_have() -> None:
    records = [
        UsageRecord(str(at), 7, "k" * 64, f"{'m' * 100}{at}", "/v1/chat/completions", completion=at)
        for at in range(1255)
    ]
    said = rolled_up([(1, records)], 0)
    assert len(said.sums) == 1255
    assert len(msgspec.json.encode(said)) < 1024 * 1024
