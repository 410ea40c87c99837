"""An exported log gives the same states and entries from any of its kept places."""

from pathlib import Path

import pytest

from nebula.events.evolve import evolve
from nebula.events.record import Entry, read_entry
from nebula.events.state import EMPTY
from nebula.history.moments import Moment
from nebula.http.console import file_log
from nebula.http.console.file_log import FileLog
from nebula.store.archive import BadArchive, Reader

PATH = Path(__file__).parents[1] / "corpus" / "lost-node.jsonl"

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FileLog:
    monkeypatch.setattr(file_log, "LEAST", 4)
    monkeypatch.setattr(file_log, "BATCH", 3)
    return FileLog(PATH)


def entries() -> list[Entry]:
    with PATH.open("rb") as file:
        return list(Reader(file, "log").entries())


async def read(log: FileLog, after: int, until: int) -> list[Entry]:
    return [entry async for batch in log.entries(after, until) for entry in batch]


async def test_entries_after_any_sequence_are_those_of_the_file(log: FileLog) -> None:
    there = entries()
    for after in range(len(there) + 1):
        assert await read(log, after, len(there)) == there[after:]
    assert await read(log, 5, 7) == there[5:7]
    assert await read(log, 7, 7) == []


async def test_a_kept_state_is_the_latest_at_or_before_a_moment(log: FileLog) -> None:
    state = EMPTY
    for entry in entries():
        state = evolve(state, read_entry(entry))
        kept = await log.before(Moment(seq=state.seq), EMPTY)
        assert kept.seq == state.seq // 4 * 4
        if kept.seq == state.seq:
            assert kept == state
        assert await log.before(Moment(seq=state.seq), state) is state
    assert log.state == state


async def test_the_events_of_one_aggregate_are_all_of_the_file(log: FileLog) -> None:
    there = [read_entry(entry) for entry in entries()]
    aggregates = {tuple(each.subject.split(".")[2:4]) for each in there}
    for kind, identity in aggregates:
        start = f"nebula.events.{kind}.{identity}."
        for until in (3, 4, 5, len(there)):
            found = [each async for each in log.events_of(kind, identity, until)]
            assert found == [e for e in there[:until] if e.subject.startswith(start)]
    assert not [each async for each in log.events_of("model", "none-such", len(there))]


async def test_a_file_that_is_changed_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_log, "LEAST", 4)
    path = tmp_path / "log.jsonl"
    path.write_bytes(PATH.read_bytes())
    log = FileLog(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = lines[10].replace(b'"seq":10', b'"seq":11')
    path.write_bytes(b"".join(lines))
    with pytest.raises(BadArchive, match="line 11"):
        await read(log, 8, 12)
