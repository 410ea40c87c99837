"""Where a log comes from: what is wrong inside it is seen wherever it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nebula.cli import log_source
from nebula.cli import replay as command
from nebula.cli.log_source import ArchivePast, BackupPast, LivePast
from nebula.events.record import Entry
from nebula.events.state import EMPTY, State
from nebula.history.moments import Moment
from nebula.history.replay import BadLog, Replay
from nebula.store.archive import write
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.unit.story import cluster

pytestmark = pytest.mark.anyio


def entries() -> list[Entry]:
    """Return three entries, of which the second is from the future."""
    found = cluster(alpha=[80], beta=[80], gamma=[80]).entries
    return [found[0], replace(found[1], time=4 * 10**18), found[2]]


class Kept(Log):
    """A log that holds these entries."""

    def __init__(self) -> None:
        super().__init__(Connection("nats://nowhere", "test"))

    async def entries(
        self, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[list[Entry], None]:
        yield entries()


@pytest.mark.parametrize("read", ["entries", "records", "last"])
async def test_a_backup_is_not_believed_whose_middle_is_from_the_future(
    read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_source, "read_backup", lambda _: iter(entries()))
    backup: Any = BackupPast(Path("copy"))
    with pytest.raises(BadLog, match="copy: sequence 2 comes from the future: it was stored at 20"):
        await backup.last() if read == "last" else await anext(getattr(backup, read)())


async def test_in_a_cluster_s_log_it_is_told_once_and_the_log_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folding = Replay()
    assert await command._fold(LivePast(Kept()), folding, None, None) is None
    assert folding.state.seq == 3
    [line] = capsys.readouterr().err.splitlines()
    assert "the log at nats://nowhere: sequence 2 comes from the future" in line


async def test_without_a_moment_nothing_is_hidden() -> None:
    assert (await log_source.state_at(_Whole(Kept()), None)).seq == 3


class _Whole(LivePast):
    async def snapshot(self, moment: Moment) -> State:
        assert moment == Moment()
        return EMPTY


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_what_was_read_before_is_not_read_again_wherever_a_log_comes_from(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cluster(alpha=[80], beta=[80], gamma=[80]).entries
    monkeypatch.setattr(log_source, "read_backup", lambda _: iter(found))
    exported = tmp_path / "log.jsonl"
    exported.write_bytes(b"".join(write(found, 3)))
    for past in (BackupPast(Path("copy")), ArchivePast(exported)):
        batches = [batch async for batch in past.records(after)]
        assert [each.seq for batch in batches for each in batch] == [1, 2, 3][after:]
