"""How commands end: by a line and an exit code, whatever the world outside does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

LOG = str(Path(__file__).parents[1] / "corpus" / "lost-node.jsonl")


def nebula(
    *arguments: str, stdout: int | None = None, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start a command."""
    line = [sys.executable, "-m", "nebula.cli.main", *arguments]
    return subprocess.Popen(line, text=True, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize(
    "command",
    [
        ("events", "--log", LOG),
        ("events", "--json", "--log", LOG),
        ("state", "--json", "--log", LOG),
        ("why", "poet", "--log", LOG),
        ("export", "-", "--log", LOG),
        ("schema",),
        ("--help",),
    ],
)
def test_a_command_is_silent_once_the_reader_of_its_output_has_gone(
    command: tuple[str, ...],
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)  # before the command starts: it may write all at once, however late we are
    try:
        process = nebula(*command, stdout=write_end)
    finally:
        os.close(write_end)
    _, told = process.communicate(timeout=60)
    assert told == ""
    assert process.returncode == 141


def test_a_command_that_is_interrupted_says_so_in_one_line() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = nebula("status", "--nats", f"nats://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()  # it waits for a word from here on
        with connection:
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "nebula: interrupted\n")


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {nonsense\r\n"]
)
def test_what_is_not_a_nats_server_costs_one_line(greeting: bytes) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.1)
        process = nebula("status", "--nats", f"nats://127.0.0.1:{other.getsockname()[1]}")
        while process.poll() is None:
            try:
                connection, _ = other.accept()
            except TimeoutError:
                continue
            connection.sendall(greeting)
            connection.close()
        [line] = process.communicate()[1].splitlines()
    assert process.returncode in (1, 78)
    assert line.startswith("nebula: ")
    assert "NATS" in line


def test_a_full_disk_is_told_by_its_name() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = nebula("events", "--log", LOG, stdout=full.fileno())
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (1, "nebula: [Errno 28] No space left on device\n")
