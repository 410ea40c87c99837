"""A log file that is deleted under the process that writes it is made anew."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from nebula.cli.lasting_output import LastingOutput

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the path of an open file")


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, text, None, None)


def test_what_is_said_after_a_file_was_deleted_is_in_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "node.log"
    path.parent.mkdir()
    with path.open("a", buffering=1) as stream:
        output = LastingOutput(stream)
        output.emit(line("before"))
        assert path.read_text() == "before\n"
        shutil.rmtree(path.parent)
        output.emit(line("after"))
        output.emit(line("later"))
    notice, *rest = path.read_text().splitlines()
    assert "the log file was deleted" in notice
    assert rest == ["after", "later"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_can_t_be_made_anew_is_tried_again_and_nothing_fails(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "node.log"
    path.parent.mkdir()
    with path.open("a", buffering=1) as stream:
        output = LastingOutput(stream)
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        output.emit(line("lost"))
        path.parent.unlink()
        output.emit(line("after"))
    assert path.read_text().splitlines()[1:] == ["after"]


def test_a_file_that_was_only_moved_is_written_on(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    with path.open("a", buffering=1) as stream:
        output = LastingOutput(stream)
        moved = path.rename(tmp_path / "node.log.old")
        output.emit(line("on"))
    assert moved.read_text() == "on\n"
    assert not path.exists()


def test_a_pipe_and_a_stream_of_memory_are_written_to_as_they_are() -> None:
    memory = io.StringIO()
    LastingOutput(memory).emit(line("there"))
    assert memory.getvalue() == "there\n"
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as stream:
        LastingOutput(stream).emit(line("through"))
    with os.fdopen(reading) as heard:
        assert heard.read() == "through\n"
