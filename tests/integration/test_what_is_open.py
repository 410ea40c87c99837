"""Every file, socket, port and command line of a cluster as it starts by itself, and its lock.

Each has its row here. A file that others may read, a port without a lock, or one that is new and
has no row, fails a test.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import nats
import nats.errors
import psutil
import pytest

from nebula.schema.parties import ROLES
from nebula.store import credentials
from tests.engines import socket_of_engine
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

OPENLY = ("sh", "-c", 'umask 0; exec "$@"', "sh")
"""Runs a command line whose files would be open to all if it set no modes."""

NOBODY = 65534
FALSE = "nbl_absent_" + "x" * 43

SECRET = "value-of-a-secret-9f27"

FILES = {
    "admin.key": "a key with all scopes, for the command line",
    "logs/*.log": "what the processes say",
    "nats/roles/*.json": "the user of NATS of one role",
    "nats/nats-server.conf": "the users of NATS, with their passwords",
    "nats/nats-server.log": "what the server says",
    "nats/jetstream/*": "the log, requests and answers",
    "nats/*": "what the server keeps",
    "nodes/here/logs/*.log": "what engines say",
    "nodes/here/sockets/*.sock": "where engines listen",
    "nodes/here/*": "what the node keeps",
    "secrets/*": "secrets that load requests name",
}
"""What Nebula writes, and why. Only its own user may read any of it."""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that every user may enter, so that only what lies in it is locked."""
    folder = Path(tempfile.mkdtemp(prefix="nebula-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def usual(home: Path) -> Iterator[Cluster]:
    """A cluster that has done what a cluster does, so that all its files are there."""
    cluster = Cluster(home)
    cluster.variables["NEBULA_OPEN"] = ""
    try:
        asyncio.run(worked(cluster))
        yield cluster
    finally:
        cluster.close()


async def worked(cluster: Cluster) -> None:
    secrets = cluster.folder / "home" / "secrets"
    secrets.mkdir(mode=0o700, parents=True)
    (secrets / "mine").write_text(SECRET)
    (secrets / "mine").chmod(0o600)
    cluster.within = OPENLY
    cluster.up()
    await cluster.take_key()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB", lora=True, env={"HF_TOKEN": {"secret": "mine"}})
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat")))
        asked = {"model": "chat", "input": "hello"}
        assert (await http.post("/v1/responses", json=asked)).status_code == 200
        line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": chat("chat")}
        file = {"file": ("in.jsonl", json.dumps(line).encode())}
        sent = await http.post("/v1/files", files=file, data={"purpose": "batch"})
        assert sent.status_code == 200
    assert (await cluster.nebula("snapshots", "make")).code == 0


def locked_files(cluster: Cluster) -> Iterator[tuple[str, Path]]:
    """Yield all that lies in the cluster's folder, by its path in it."""
    top = cluster.folder / "home"
    for path in top.rglob("*"):
        yield str(path.relative_to(top)), path


async def test_every_file_is_its_owner_s_alone(usual: Cluster) -> None:
    assert stat.S_IMODE((usual.folder / "home").stat().st_mode) == 0o700
    found = list(locked_files(usual))
    assert len(found) > 20
    for name, path in found:
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, name
        else:
            assert stat.S_IMODE(mode) in (0o600, 0o700), (name, oct(mode))
            assert stat.S_ISDIR(mode) or stat.S_IMODE(mode) == 0o600, (name, oct(mode))
        assert path.lstat().st_uid == os.geteuid()


async def test_every_file_has_its_row(usual: Cluster) -> None:
    rows = set()
    for name, path in locked_files(usual):
        if path.is_dir():
            continue
        found = [row for row in FILES if fnmatch.fnmatch(name, row)]
        assert found, f"what is {name}, and who reads it?"
        rows.add(found[0])
    assert rows == set(FILES)


def listening(kind: str, pids: set[int]) -> Iterator[tuple[psutil.Process, str, int]]:
    """Yield (process, address, port) of all that processes listen on, over TCP or UDP."""
    for pid in pids:
        process = psutil.Process(pid)
        for found in process.net_connections(kind):
            if found.laddr and (kind == "udp" or found.status == psutil.CONN_LISTEN):
                yield process, found.laddr.ip, found.laddr.port


async def test_every_port_has_its_lock(usual: Cluster) -> None:
    found = list(listening("tcp", usual.pids()))
    assert {address for _, address, _ in found} <= {"127.0.0.1", "::1"}
    monitor = monitor_port(usual)
    locks = {usual.port: keys_are_asked, usual.nats_port: users_are_asked, monitor: path_is_asked}
    ports = {port for _, _, port in found}
    assert ports == set(locks), [each[0].cmdline()[:5] for each in found]
    assert not list(listening("udp", usual.pids()))
    for port, lock in locks.items():
        await lock(port)


def monitor_port(cluster: Cluster) -> int:
    """Return the port of the monitoring of the cluster's nats-server."""
    line = psutil.Process(cluster.pid("nats-server")).cmdline()
    return int(line[line.index("-m") + 1])


def stranger(port: int) -> httpx.AsyncClient:
    """Return a client without any key."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)


async def keys_are_asked(port: int) -> None:
    async with stranger(port) as http:
        assert (await http.get("/admin/state")).status_code == 401
        assert (await http.get("/v1/models", headers={"x-api-key": FALSE})).status_code == 401


async def users_are_asked(port: int) -> None:
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)


async def path_is_asked(port: int) -> None:
    """nats-server's monitoring knows no passwords, and answers any web page (`callback`)."""
    async with stranger(port) as http:
        for name in ("", "healthz", "varz", "jsz?streams=1", "connz?subs=1&callback=x", "accstatz"):
            answer = await http.get(f"/{name}")
            assert answer.status_code == 404, (name, answer.text[:100])


async def test_every_socket_lies_in_a_folder_of_its_owner(usual: Cluster) -> None:
    named = {
        path
        for pid in usual.pids()
        for found in psutil.Process(pid).net_connections("unix")
        if (path := str(found.laddr or ""))
    }
    engine = await usual.engine("chat-0")
    assert socket_of_engine(engine.pid, engine.port) in named
    for path in named:
        assert not path.startswith(("@", "\0")), f"every user reaches {path}"
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700, path


def secrets_of(cluster: Cluster) -> dict[str, str]:
    """Return what no command line may hold, by what it is."""
    roles = cluster.folder / "home" / "nats"
    passwords = {
        f"password of {role}": json.loads(credentials.file_of(roles, role).read_text())["password"]
        for role in ROLES
    }
    return {**passwords, "admin key": cluster.key, "secret": SECRET}


async def test_no_command_line_and_no_environment_holds_a_secret(usual: Cluster) -> None:
    engine = (await usual.engine("chat-0")).pid
    secrets = secrets_of(usual)
    for pid in usual.pids():
        process = psutil.Process(pid)
        line, environ = " ".join(process.cmdline()), process.environ()
        for what, secret in secrets.items():
            assert secret not in line, (what, line)
            held = [name for name, value in environ.items() if secret in value]
            wanted = ["HF_TOKEN"] if what == "secret" and pid == engine else []
            assert held == wanted, (what, line)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
async def test_another_user_of_the_machine_gets_nothing(usual: Cluster) -> None:
    """Of a file or a socket of the node; of the ports what their locks let through."""

    async def other(*line: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *line,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode(errors="replace")

    code, told = await other("ls", str(usual.folder))
    assert (code, "home" in told) == (0, True)
    for name, path in locked_files(usual):
        code, told = await other("ls" if path.is_dir() else "cat", str(path))
        assert code, name
        assert "Permission denied" in told, (name, told)
    engine = await usual.engine("chat-0")
    socket = socket_of_engine(engine.pid, engine.port)
    connects = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    code, told = await other("/usr/bin/python3", "-c", connects, socket)
    assert code, told
    assert "PermissionError" in told
    code, told = await other("cat", f"/proc/{engine.pid}/environ")
    assert code, told
