"""Snapshots: the same state gives the same bytes, and a state comes through them unchanged."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import snapshot
from nebula.events.folding import fold
from nebula.events.original import original, wrapped
from nebula.events.record import Entry, read_entry
from nebula.events.snapshot import FOLD, FORMAT, Unusable
from nebula.events.state import EMPTY, State
from nebula.store.archive import Reader, write
from nebula.store.snapshots import SnapshotSlot, slot_for
from tests.unit import corpus
from tests.unit.story import SECOND, Story, cluster, load, messages

DAY = 86400 * SECOND
GOLDEN = Path(__file__).parents[1] / "golden" / "folds.json"


def told(said: list[tuple[str, bytes]]) -> Story:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
    return story


def busy() -> State:
    story = cluster(alpha=[80]).given(
        "chat", load(2, "8GiB", options={"seed": 1, "max-num-seqs": 2})
    )
    story.publish("nebula.events.model.chat.Nonsense", b"{}")
    story.settles()
    return story.runs("chat-0").publish("nebula.events.model.chat.Nonsense", b"{}").state


@given(messages, st.integers(0, 40))
def test_one_log_is_one_state_whichever_way_it_is_folded(
    said: list[tuple[str, bytes]], cut: int
) -> None:
    story = told(said)
    whole = snapshot.canonical(fold(EMPTY, story.log))

    begun = snapshot.load(snapshot.dump(fold(EMPTY, story.log[:cut])))
    assert snapshot.canonical(fold(begun, story.log[cut:])) == whole

    exported = b"".join(write(story.entries, len(story.entries)))
    assert snapshot.canonical(fold(EMPTY, Reader(BytesIO(exported), "log").records())) == whole

    stored = [_imported(each) for each in Reader(BytesIO(exported), "log").entries()]
    there = [original(each) for each in stored]
    assert there == story.entries
    assert b"".join(write(there, len(there))) == exported
    assert snapshot.canonical(fold(EMPTY, map(read_entry, there))) == whole


def _imported(entry: Entry) -> Entry:
    """Return an entry as JetStream stores an imported one: later, with headers of its own."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in wrapped(entry).items())
    headers = f"NATS/1.0\r\n{lines}\r\n".encode()
    return Entry(entry.seq, entry.time + DAY, entry.subject, headers, entry.body)


@given(messages)
def test_equal_states_give_equal_bytes(said: list[tuple[str, bytes]]) -> None:
    state = told(said).state
    assert snapshot.dump(snapshot.load(snapshot.dump(state))) == snapshot.dump(state)
    assert snapshot.digest(state) == snapshot.digest(told(said).state)


@pytest.mark.parametrize("name", corpus.NAMES)
def test_a_fold_that_means_something_else_needs_a_new_version(name: str) -> None:
    """Where this fails, snapshot.FOLD must grow; then write the digests anew."""
    golden = json.loads(GOLDEN.read_bytes())
    assert golden["fold"] == FOLD
    assert golden["states"][name] == snapshot.digest(fold(EMPTY, corpus.records(name)))


def test_the_empty_state_comes_through() -> None:
    assert snapshot.load(snapshot.dump(EMPTY)) == EMPTY


@pytest.mark.parametrize("at", [0, 30, 150, 400, -1])
def test_a_flipped_bit_is_noticed(at: int) -> None:
    data = bytearray(snapshot.dump(busy()))
    data[at] ^= 1
    with pytest.raises(Unusable):
        snapshot.load(bytes(data))


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_snapshot_is_noticed(length: int) -> None:
    with pytest.raises(Unusable):
        snapshot.load(snapshot.dump(busy())[:length])


@pytest.mark.parametrize(("field", "version"), [("format", FORMAT), ("fold", FOLD)])
def test_an_unknown_version_is_named(field: str, version: int) -> None:
    known, unknown = f'"{field}":{version}'.encode(), f'"{field}":{version + 1}'.encode()
    data = snapshot.dump(busy()).replace(known, unknown, 1)
    with pytest.raises(Unusable, match=f"{field} {version + 1}"):
        snapshot.load(data)


# Which one is overwritten


@pytest.mark.parametrize(
    ("held", "slot"),
    [
        ({}, "state-0"),
        ({"state-0": 5}, "state-1"),
        ({"state-1": 5}, "state-0"),
        ({"state-0": 5, "state-1": 9}, "state-0"),
        ({"state-0": 9, "state-1": 5}, "state-1"),
        ({"state-0": 12}, "state-0"),
        ({"state-0": 5, "state-1": 12}, "state-1"),
        ({"state-0": 12, "state-1": 5}, "state-0"),
    ],
)
def test_the_older_one_is_overwritten_or_one_of_the_same_sequence(
    held: dict[str, int], slot: str
) -> None:
    assert slot_for(12, [SnapshotSlot(seq, name) for name, seq in held.items()]) == slot
