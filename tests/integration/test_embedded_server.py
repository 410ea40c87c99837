"""The embedded nats-server: it keeps what it has acknowledged, and never outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from nebula.events.intents import ModelScaleRequested
from nebula.store import server as server_module
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer, ServerFailed, configuration
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PATIENCE = 10.0
PARENT = """
import asyncio, sys
from pathlib import Path
from nebula.store.server import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]), int(sys.argv[2]))
    await server.start()
    print(server.process.pid, flush=True)
    await server.wait()

asyncio.run(main())
"""


def test_the_server_calls_fsync_before_it_acknowledges() -> None:
    lines = configuration(4222, Path("/store")).splitlines()
    assert "  sync_interval: always" in lines
    assert '  store_dir: "/store"' in lines
    assert 'listen: "127.0.0.1:4222"' in lines


def test_a_folder_with_strange_characters_is_quoted() -> None:
    text = configuration(4222, Path('/a "b" c'))
    assert '"/a \\"b\\" c"' in text


async def test_a_running_server_was_started_with_that_configuration(
    nats_server: EmbeddedServer,
) -> None:
    assert nats_server.process is not None
    config = nats_server.folder / "nats-server.conf"
    assert str(config) in psutil.Process(nats_server.process.pid).cmdline()
    assert "  sync_interval: always\n" in config.read_text()


async def test_it_starts_in_a_folder_with_a_strange_name(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / 'my "data" 名前', free_port())
    await server.start()
    try:
        connection = await Connection(server.url, "test").open(patience=PATIENCE)
        log = await Log(connection).open(patience=PATIENCE)
        assert await log.append("chat", ModelScaleRequested(1)) == 1
        await connection.close()
        assert list((server.folder / "jetstream").rglob("*.blk"))
    finally:
        await server.stop()


async def test_a_port_that_is_taken_is_said_clearly(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EmbeddedServer(tmp_path, port)
        with pytest.raises(ServerFailed, match=f"listens on port {port} already.*--nats-port"):
            await server.start()
        assert server.process is None


async def test_a_second_server_in_one_folder_is_refused_and_changes_nothing(
    nats_server: EmbeddedServer, log: Log
) -> None:
    config = (nats_server.folder / "nats-server.conf").read_text()
    second = EmbeddedServer(nats_server.folder, free_port())
    told = rf"process {os.getpid()} runs .*{nats_server.folder}.*--folder.*--nats {nats_server.url}"
    with pytest.raises(ServerFailed, match=told):
        await second.start()
    assert second.process is None
    await second.stop()
    assert (nats_server.folder / "nats-server.conf").read_text() == config
    assert await log.append("chat", ModelScaleRequested(1)) == 1
    with pytest.raises(ServerFailed, match=told):
        await EmbeddedServer(nats_server.folder, free_port()).start()


async def test_a_server_that_was_stopped_leaves_its_folder_to_the_next(
    nats_server: EmbeddedServer,
) -> None:
    await nats_server.stop()
    second = EmbeddedServer(nats_server.folder, free_port())
    await second.start()
    await second.stop()


async def test_a_folder_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerFailed, match=f"can't run a nats-server in {tmp_path}/file/nats"):
        await EmbeddedServer(tmp_path / "file" / "nats", free_port()).start()


async def test_a_server_that_does_not_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "configuration", lambda *_: "nonsense {\n")
    server = EmbeddedServer(tmp_path, free_port())
    with pytest.raises(ServerFailed, match=r"did not start: .*nats-server"):
        await server.start()
    assert await server.wait() != 0
    await server.stop()


async def test_after_kill_9_and_another_start_every_acknowledged_event_is_there(
    nats_server: EmbeddedServer, log: Log
) -> None:
    for number in range(1, 21):
        assert await log.append("chat", ModelScaleRequested(number)) == number
    assert nats_server.process is not None
    nats_server.process.send_signal(signal.SIGKILL)
    assert await nats_server.wait() == -signal.SIGKILL
    await nats_server.start()
    second = await Connection(nats_server.url, "second").open(patience=PATIENCE)
    again = await Log(second).open(patience=PATIENCE)
    entries = await again.read()
    await second.close()
    assert [entry.content for entry in entries] == [ModelScaleRequested(n) for n in range(1, 21)]


async def test_it_stops_cleanly_and_twice(nats_server: EmbeddedServer) -> None:
    assert nats_server.process is not None
    pid = nats_server.process.pid
    await nats_server.stop()
    assert not psutil.pid_exists(pid)
    assert "Server Exiting" in nats_server.log_file.read_text()
    assert await nats_server.wait() in (0, 1)
    await nats_server.stop()
    with pytest.raises(Unavailable, match=nats_server.url):
        await Connection(nats_server.url, "late").open(patience=0)


async def test_one_that_never_ran_can_be_stopped(tmp_path: Path) -> None:
    await EmbeddedServer(tmp_path, 1).stop()


async def parent_and_server(folder: Path) -> tuple[asyncio.subprocess.Process, psutil.Process]:
    """Have another process start a server."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        str(folder),
        str(free_port()),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    return parent, psutil.Process(pid)


async def test_a_server_that_outlives_its_killed_parent_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, orphan = await parent_and_server(tmp_path)
    orphan.suspend()  # what the kernel sends it when its parent dies has to wait
    try:
        parent.kill()
        await parent.wait()
        monkeypatch.setattr(server_module, "LAST_SERVER", 0.2)
        hasty = EmbeddedServer(tmp_path, free_port())
        with pytest.raises(ServerFailed, match=f"started in {tmp_path} still runs"):
            await hasty.start()
        monkeypatch.setattr(server_module, "LAST_SERVER", 20.0)
        patient = EmbeddedServer(tmp_path, free_port())
        starting = asyncio.create_task(patient.start())
        await asyncio.sleep(0.5)
        assert not starting.done()
        assert patient.process is None
    finally:
        orphan.resume()
    await starting
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    await patient.stop()


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    parent, child = await parent_and_server(tmp_path)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [child], PATIENCE)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
