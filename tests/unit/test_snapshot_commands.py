"""Looking back at a cluster that has snapshots: what is told is what the log says, and no more.

A snapshot is a shortcut. Whichever there are, before or after the moment that is asked about, each
command must say the same.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.cli.log_source import LivePast, state_at
from nebula.events import snapshot
from nebula.events.intents import AdapterLoadRequested, ModelScaleRequested, NodeDrainRequested
from nebula.events.vocabulary import EngineFailed
from nebula.history.moments import BadMoment, Moment
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import SECOND, Story, cluster, load

pytestmark = pytest.mark.anyio


def told() -> Story:
    """Two nodes and two models, one with an adapter, of which much happens."""
    story = cluster(alpha=[80, 80], beta=[80])
    story.given("chat", load(1, "8GiB", lora=True)).given("code", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0").given("chat", AdapterLoadRequested("sql", "/sql"))
    story.given("chat-0", EngineFailed("killed", -9, retry_in=1.0))
    story.given("chat", ModelScaleRequested(2)).settles()
    story.given("alpha", NodeDrainRequested()).settles()
    return story


STORY = told()
LAST = STORY.state.seq


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    return joined(monkeypatch, told())


COMMANDS = [
    ("state", "--at", "5"),
    ("state", "--at", "5", "--json"),
    ("state", "--at", "1970-01-01T00:00:05Z"),
    ("state", "--at", str(LAST)),
    ("diff", "4", "8"),
    ("diff", "8"),
    ("diff", "8", "4"),
    ("why", "chat", "--at", "8"),
    ("why", "chat-0", "--at", "12", "--all"),
    ("why", "chat"),
    ("why", "seq", "7"),
    ("events", "chat", "--until", "7"),
    ("events", "--node", "beta", "--since", "3"),
    ("revert", "--to", "9", "--dry-run"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_that_looks_back_says_the_same_whichever_snapshots_there_are(
    log: MemoryLog, command: tuple[str, ...]
) -> None:
    without = says(*command, "--nats", "nats://memory")
    assert without.exit_code == 0, without.output
    for held in [(3,), (5, 8), (LAST,), (1, LAST - 1)]:
        log.nats.objects.clear()
        for slot, seq in enumerate(held):
            log.nats.snapshot(STORY.at(seq), f"state-{slot}")
        assert says(*command, "--nats", "nats://memory").output == without.output


def test_reading_begins_after_the_newest_snapshot_that_is_not_past_the_moment(
    log: MemoryLog,
) -> None:
    log.nats.snapshot(STORY.at(4), "state-0")
    log.nats.snapshot(STORY.at(8), "state-1")
    for seq, begin in [(3, 0), (4, 4), (7, 4), (8, 8), (LAST, 8)]:
        log.read_from.clear()
        shown = json.loads(says("state", "--at", str(seq), "--json").stdout)
        assert (shown["seq"], log.read_from[-1]) == (seq, begin)


@given(st.integers(1, LAST), st.lists(st.integers(1, LAST), max_size=2), st.booleans())
def test_a_state_of_the_past_is_what_the_log_folds_to(
    seq: int, held: list[int], by_time: bool
) -> None:
    log = MemoryLog(STORY)
    for slot, each in enumerate(held):
        log.nats.snapshot(STORY.at(each), f"state-{slot}")
    moment = Moment(time=seq * SECOND) if by_time else Moment(seq=seq)
    found = asyncio.run(state_at(LivePast(log), moment))
    assert snapshot.digest(found) == snapshot.digest(STORY.at(seq))


WRONG = {
    "damaged": snapshot.dump(STORY.at(8))[:-7],
    "empty": b"",
    "of another moment": snapshot.dump(STORY.at(6)),
    "of another log": snapshot.dump(replace(STORY.at(8), time=STORY.at(8).time + 1)),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_snapshot_that_is_not_what_it_says_is_passed_over(log: MemoryLog, how: str) -> None:
    log.nats.snapshot(STORY.at(4), "state-0")
    log.nats.objects["state-1"] = ("8", WRONG[how])
    found = await state_at(LivePast(log), Moment(seq=9))
    assert snapshot.digest(found) == snapshot.digest(STORY.at(9))
    assert log.read_from[-1] == 4


async def test_a_moment_that_the_log_does_not_have_is_refused_with_a_snapshot_too(
    log: MemoryLog,
) -> None:
    log.nats.snapshot(STORY.at(LAST))
    assert (await state_at(LivePast(log), Moment(seq=LAST))).seq == LAST
    with pytest.raises(BadMoment, match=f"there is no sequence {LAST + 1}: .* ends with {LAST}"):
        await state_at(LivePast(log), Moment(seq=LAST + 1))
    with pytest.raises(BadMoment, match="is before the first event"):
        await state_at(LivePast(log), Moment(time=SECOND - 1))
    assert (await state_at(LivePast(log), Moment(time=SECOND))).seq == 1
