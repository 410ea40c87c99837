"""Which logs of replicas that are gone a node keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.log_keeping import AGE, FILES, SIZE, LogFile, expired, forget_logs

NOW = 1e9


def test_logs_of_replicas_that_are_here_stay_however_old_and_large() -> None:
    files = [LogFile(f"chat-0.log{end}", SIZE, 0.0) for end in ("", ".1", ".1.new")]
    assert expired(files, {"chat-0"}, NOW) == ()
    assert len(expired(files, {"chat-1"}, NOW)) == 3


def test_what_is_a_week_old_goes_and_nothing_that_is_not_a_log() -> None:
    files = [
        LogFile("old-0.log", 10, NOW - AGE - 1),
        LogFile("new-0.log", 10, NOW - AGE + 1),
        LogFile("notes.logs", 10, 0.0),
    ]
    assert expired(files, set(), NOW) == ("old-0.log",)


def test_of_too_much_the_oldest_go() -> None:
    files = [LogFile(f"m-{each}.log", SIZE // 4, NOW - each) for each in range(6)]
    assert expired(files, set(), NOW) == ("m-4.log", "m-5.log")
    many = [LogFile(f"m-{each}.log", 1, NOW - each) for each in range(FILES + 2)]
    assert len(expired(many, set(), NOW)) == 2


@given(
    st.lists(
        st.builds(
            LogFile,
            st.from_regex(r"[ab]-[0-9]{1,3}\.log(\.1)?", fullmatch=True),
            st.integers(0, SIZE),
            st.floats(NOW - 2 * AGE, NOW),
        ),
        unique_by=lambda file: file.name,
    )
)
def test_what_is_left_is_within_its_bounds_and_newer_than_what_goes(files: list[LogFile]) -> None:
    gone = set(expired(files, set(), NOW))
    left = [file for file in files if file.name not in gone]
    assert sum(file.size for file in left) <= SIZE
    assert all(NOW - file.modified <= AGE for file in left)
    oldest = min((file.modified for file in left), default=NOW)
    assert all(file.modified <= oldest for file in files if file.name in gone)


@pytest.mark.anyio
async def test_log_files_beyond_the_bounds_are_removed_from_the_folder(tmp_path: Path) -> None:
    for name in ("gone-0.log", "gone-0.log.1", "here-0.log"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    work = asyncio.create_task(forget_logs(tmp_path, lambda: {"here-0"}, every=0.01))
    async with asyncio.timeout(20):
        while len(os.listdir(tmp_path)) > 1:  # noqa: ASYNC110, PTH208
            await asyncio.sleep(0.01)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    assert os.listdir(tmp_path) == ["here-0.log"]  # noqa: PTH208
