"""Files that child processes write to: bounded while these run, and read over a turn."""
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.actors.node.log_reading import LogRequest, read_log
from nebula.store import child_output
from nebula.store.child_output import LIMIT, TAIL, end, keep_bounded, read, tail, turn_over

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chat-0.log"


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".1")


async def test_a_file_below_its_limit_is_left_alone(file: Path) -> None:
    file.write_bytes(b"x" * 100)
    assert not await turn_over(file, 100)
    assert not await turn_over(file.with_name("none.log"), 100)
    assert [each.name for each in file.parent.iterdir()] == [file.name]


async def test_a_child_that_has_the_file_open_writes_on_at_its_new_beginning(file: Path) -> None:
    with file.open("ab") as output:
        child = subprocess.Popen(
            ["/bin/sh", "-c", "seq 1 1000; read -r line; echo after"],
            stdin=subprocess.PIPE,
            stdout=output,
        )
    async with asyncio.timeout(20):
        while tail(file, 1) != ("1000",):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await turn_over(file, 500)
    child.communicate(b"go\n", timeout=20)
    assert file.read_bytes() == b"after\n"
    assert beside(file).stat().st_size == 500
    assert tail(file, 3) == ("999", "1000", "after")


async def test_there_are_two_files_of_a_log_however_often_it_is_turned_over(file: Path) -> None:
    for turn in range(5):
        with file.open("ab") as output:
            output.write(bytes([65 + turn]) * 3000)
        assert await turn_over(file, 1000)
        assert sum(each.stat().st_size for each in file.parent.iterdir()) <= 2000
    assert sorted(each.name for each in file.parent.iterdir()) == [file.name, file.name + ".1"]
    assert beside(file).read_bytes() == b"E" * 1000


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.one_of(st.integers(1, 400), st.sampled_from(["turn", "read"]))))
def test_a_follower_of_a_log_reads_each_byte_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | str]
) -> None:
    """As long as it reads before the second turn after a byte was written."""
    path = tmp_path_factory.mktemp("logs") / "a.log"
    path.touch()
    written, seen, position = b"", b"", 0

    def follow() -> None:
        nonlocal seen, position
        data, position = read(path, position, 1 << 20)
        while data:
            seen += data
            data, position = read(path, position, 1 << 20)

    for step in steps:
        if isinstance(step, int):
            more = bytes(len(written) % 251 + 1 for _ in range(step))
            written += more
            with path.open("ab") as output:
                output.write(more)
        elif step == "read":
            follow()
        elif path.stat().st_size > 1:
            follow()
            asyncio.run(turn_over(path, 1))
    follow()
    assert seen == written
    assert position == end(path) == len(written)


async def test_following_an_engine_s_log_goes_on_over_a_turn(file: Path) -> None:
    file.write_bytes(b"one\n" * 50)
    begun = read_log(file, LogRequest("chat-0", lines=2))
    assert begun.text == "one\none\n"
    with file.open("ab") as output:
        output.write(b"unread\n")
    assert await turn_over(file, 100)
    with file.open("ab") as output:
        output.write(b"new\n" * 100)  # longer than before: a size alone would not tell
    first = read_log(file, LogRequest("chat-0", offset=begun.offset))
    second = read_log(file, LogRequest("chat-0", offset=first.offset))
    assert first.text + second.text == "unread\n" + "new\n" * 100
    assert read_log(file, LogRequest("chat-0", offset=second.offset)).text == ""


async def test_what_is_not_kept_any_more_is_passed_over(file: Path) -> None:
    file.write_bytes(b"a" * 1000)
    await turn_over(file, 100)
    file.write_bytes(b"b" * 1000)
    await turn_over(file, 100)
    assert read(file, 0, 5000) == (b"b" * 100, 2000)
    file.write_bytes(b"c")
    assert read(file, 10**9, 5000) == (b"c", 2001)


async def test_a_log_that_there_is_no_room_to_copy_is_emptied_at_twice_its_limit(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(child_output, "_copy", full)
    file.write_bytes(b"x" * 150)
    with pytest.raises(OSError, match="No space left"):
        await turn_over(file, 100)
    assert file.stat().st_size == 150
    file.write_bytes(b"x" * 250)
    assert await turn_over(file, 100)
    assert file.stat().st_size == 0
    assert read(file, 0, 100) == (b"", 250)


async def test_one_file_that_fails_does_not_keep_the_others_from_being_turned_over(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = file.with_name("a.log")
    bad.write_bytes(b"x" * 150)
    bad.with_name("a.log.1.new").mkdir()
    bad.with_name("a.log.1").mkdir()
    file.write_bytes(b"x" * 150)
    keeping = asyncio.create_task(keep_bounded((file.parent,), 100, pause=0.01))
    async with asyncio.timeout(20):
        while file.stat().st_size:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not keeping.done()
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert caplog.text.count("can't rotate") == 1


async def test_a_line_of_50_mb_takes_little_memory(file: Path) -> None:
    with file.open("wb") as output:
        for _ in range(50):
            output.write(b"\xff\x1b\x00y" * 250_000)
        output.truncate(LIMIT + 1)
    tracemalloc.start()
    try:
        assert await turn_over(file, LIMIT)
        tail(file, 40)
        read(file, 0, 512 * 1024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


def test_the_tail_gives_the_last_lines_and_nothing_of_a_file_that_is_not_there(
    tmp_path: Path,
) -> None:
    log_file = tmp_path / "log"
    assert tail(log_file, 3) == ()
    log_file.write_text("")
    assert tail(log_file, 3) == ()
    log_file.write_text("a\nb\nc\nd")
    assert tail(log_file, 3) == ("b", "c", "d")


def test_the_tail_of_a_huge_log_is_bounded_and_survives_any_bytes(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    log_file.write_bytes(b"x" * TAIL * 3 + b"\n" + b"\xff\xfe\x00" * 1000 + b"\nlast\n")
    lines = tail(log_file, 1000)
    assert lines[-1] == "last"
    assert all(len(line) <= 2000 for line in lines)
