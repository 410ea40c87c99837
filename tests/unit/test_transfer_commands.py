"""`nebula export`, `import` and `snapshots`: what goes into a file and what comes out of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from nebula.cli import log_source
from nebula.cli.log_source import ArchivePast
from nebula.cli.transfer import check_archive
from nebula.events import snapshot
from nebula.events.intents import ModelScaleRequested
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY
from nebula.history.replay import BadLog
from nebula.store.archive import Reader, write
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import Story, cluster, load

SECRET = "hf_nebulasecretnebulasecretnebula"


def told(**env: str) -> Story:
    story = cluster(alpha=[80], beta=[80]).given("chat", load(1, "8GiB", env=env))
    story.settles()
    return story.runs("chat-0").given("chat", ModelScaleRequested(2))


STORY = told()
LAST = STORY.state.seq


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    return joined(monkeypatch, told())


def held(path: Path) -> list[Entry]:
    with path.open("rb") as file:
        return list(Reader(file, str(path)).entries())


def written(path: Path, story: Story = STORY) -> Path:
    path.write_bytes(b"".join(write(story.entries, story.state.seq)))
    return path


# Export


@pytest.mark.parametrize(("until", "last"), [(None, LAST), (str(LAST), LAST), ("4", 4), ("1", 1)])
def test_a_file_has_every_event_up_to_the_moment_and_that_one_too(
    log: MemoryLog, tmp_path: Path, until: str | None, last: int
) -> None:
    path = tmp_path / "log.jsonl"
    result = says("export", str(path), *(("--until", until) if until else ()))
    assert result.exit_code == 0, result.output
    assert held(path) == STORY.entries[:last]
    assert f"events 1 to {last}, chain " in result.output


@pytest.mark.parametrize("until", [str(LAST + 1), "1970-01-01T00:00:00Z"])
def test_a_moment_that_the_log_does_not_have_makes_no_file(
    log: MemoryLog, tmp_path: Path, until: str
) -> None:
    result = says("export", str(tmp_path / "log.jsonl"), "--until", until)
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hole", [0, 2])
def test_a_log_with_a_hole_makes_no_file_and_leaves_the_old_one(
    log: MemoryLog, tmp_path: Path, hole: int
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("the old one")
    del log.story.entries[hole]
    result = says("export", str(path))
    assert result.exit_code == 1
    assert f"found sequence {hole + 2} instead of {hole + 1}: the log has a hole" in result.output
    assert [each.read_text() for each in tmp_path.iterdir()] == ["the old one"]


@pytest.mark.parametrize("secrets", [True, False])
def test_secrets_are_masked_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secrets: bool
) -> None:
    joined(monkeypatch, told(HF_TOKEN=SECRET))
    path = tmp_path / "log.jsonl"
    result = says("export", str(path), *(("--secrets",) if secrets else ()))
    assert result.exit_code == 0
    assert (SECRET in path.read_text()) == secrets
    words = "it holds secrets of 1 events" if secrets else "secrets of 1 events are masked in it"
    assert words in result.output


# Import


@pytest.mark.parametrize("there", [0, 1, 3, LAST])
def test_an_import_adds_what_is_missing_and_ends_with_the_same_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: int
) -> None:
    path = written(tmp_path / "log.jsonl")
    log = joined(monkeypatch, Story())
    for entry in STORY.entries[:there]:
        log.story.publish(entry.subject, entry.body)
        log.story.entries[-1] = entry
    result = says("import", str(path), "--json")
    assert result.exit_code == 0, result.output
    assert log.story.entries == STORY.entries
    said = json.loads(result.stdout)
    assert (said["last"], said["written"]) == (LAST, LAST - there)
    assert sum(log.batches) == LAST - there


def test_an_import_into_another_history_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = joined(monkeypatch, cluster(gamma=[8]))
    result = says("import", str(written(tmp_path / "log.jsonl")))
    assert result.exit_code == 1
    assert "this cluster has another history: sequence 1" in result.output
    assert (len(log.story.entries), log.batches) == (1, [])


@pytest.mark.parametrize("masked", [True, False])
def test_a_file_whose_secrets_are_masked_is_taken_only_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, masked: bool
) -> None:
    joined(monkeypatch, told(HF_TOKEN=SECRET))
    path = tmp_path / "log.jsonl"
    says("export", str(path))
    log = joined(monkeypatch, Story())
    result = says("import", str(path), *(("--masked",) if masked else ()))
    assert (result.exit_code, len(log.story.entries)) == ((0, LAST) if masked else (1, 0))
    assert masked or "export it again with --secrets" in result.output


@pytest.mark.parametrize("spare", [0, -1])
def test_the_largest_event_must_fit_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spare: int
) -> None:
    path = written(tmp_path / "log.jsonl")
    found = check_archive(path)
    assert (found.last, found.masked) == (LAST, False)
    log = joined(monkeypatch, Story())
    log.nats.max_body = found.size + spare
    result = says("import", str(path))
    assert (result.exit_code == 0) == (spare == 0)
    if spare:
        assert f"line {found.largest + 1}: sequence {found.largest} needs" in result.output
        assert log.story.entries == []


def test_a_file_from_the_future_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    story = told()
    story.entries[2] = replace(story.entries[2], time=4 * 10**18)
    log = joined(monkeypatch, Story())
    result = says("import", str(written(tmp_path / "log.jsonl", story)))
    assert (result.exit_code, log.story.entries) == (1, [])
    assert "line 4: sequence 3 comes from the future" in result.output


# Snapshots


def test_a_snapshot_that_is_what_the_log_folds_to_is_good(log: MemoryLog) -> None:
    assert says("snapshots", "check").output.strip() == "no snapshots yet"
    log.nats.snapshot(STORY.at(3), "state-0")
    log.nats.snapshot(STORY.at(LAST), "state-1")
    result = says("snapshots", "check")
    assert (result.exit_code, result.output.count("is what the log folds to")) == (0, 2)
    assert says("snapshots").output.splitlines() == [
        f"event {LAST} (state-1)",
        "event 3 (state-0)",
    ]


BAD = {
    "it is NOT what the log folds to": replace(STORY.at(3), names=EMPTY.names),
    "it was taken at sequence 4": STORY.at(4),
    "it is a snapshot of another log": replace(STORY.at(3), time=7),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_snapshot_that_is_not_what_the_log_folds_to_is_named(
    log: MemoryLog, problem: str
) -> None:
    state = BAD[problem]
    log.nats.snapshot(STORY.at(LAST), "state-1")
    log.nats.objects["state-0"] = ("3", snapshot.dump(state))
    result = says("snapshots", "check")
    assert result.exit_code == 1
    assert f"event 3 (state-0): {problem}" in result.output
    assert f"event {LAST} (state-1): is what the log folds to" in result.output
    said = json.loads(says("snapshots", "check", "--json").stdout)
    assert (said["good"], {each["seq"] for each in said["snapshots"]}) == (False, {3, LAST})


@pytest.mark.parametrize("beyond", [1, 5])
def test_a_snapshot_beyond_the_end_of_the_log_is_a_fault(log: MemoryLog, beyond: int) -> None:
    log.nats.objects["state-0"] = (str(LAST + beyond), snapshot.dump(STORY.at(LAST)))
    result = says("snapshots", "check")
    assert result.exit_code == 1
    assert f"event {LAST + beyond} (state-0): the log ends before it" in result.output


# Logs with holes


async def _batches(records: list[Record]) -> AsyncGenerator[list[Record], None]:
    yield records


@pytest.mark.parametrize("hole", [0, 3, LAST - 2])
@pytest.mark.anyio
async def test_no_state_is_folded_across_a_hole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hole: int
) -> None:
    past = ArchivePast(tmp_path / "log.jsonl")
    records = [each for number, each in enumerate(STORY.log) if number != hole]
    monkeypatch.setattr(past, "records", lambda after: _batches(records))
    with pytest.raises(BadLog, match=f"sequence {hole + 2} follows {hole}: the log has a hole"):
        await log_source.state_at(past, None)
