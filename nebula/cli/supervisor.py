"""Keeps `nebula up`'s child processes running: starts them, restarts them, ends them in order."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from nebula.cli.process import FATAL
from nebula.store.server import EmbeddedServer, die_with_parent

log = logging.getLogger(__name__)

LONGEST_PAUSE = 10.0


class ChildFailed(Exception):
    """A child can't run at all; a restart would not help."""


class Supervisor:
    """A handful of children, and perhaps the embedded NATS server, that live and die together."""

    def __init__(self, log_folder: Path, server: EmbeddedServer | None) -> None:
        self._log_folder = log_folder
        self._server = server
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start_server(self) -> None:
        """Start the embedded server and keep it running. Raises ServerFailed."""
        if self._server is not None:
            try:
                await self._server.start()
            except BaseException:
                await self._server.stop()
                raise
            self._keepers["nats-server"] = asyncio.create_task(self._keep_server(self._server))

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a child and keep it running; its output goes to its own log file."""
        self._keepers[name] = asyncio.create_task(self._keep(name, arguments, environment))

    async def failure(self) -> None:
        """Wait until a child can't be kept running. Raises ChildFailed."""
        await asyncio.shield(self._failed)

    async def stop(self, names: Sequence[str], patience: float) -> None:
        """End children one after the other; those that take longer than `patience` s are killed."""
        for name in names:
            keeper = self._keepers.pop(name, None)
            if keeper is not None:
                keeper.cancel()
        for name in names:
            child = self._children.get(name)
            if child is None or child.returncode is not None:
                continue
            child.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(patience):
                    await child.wait()
            except TimeoutError:
                log.warning("%s did not end in %.0f s: killing it", name, patience)
                child.kill()
                await child.wait()

    async def stop_server(self) -> None:
        """End the embedded server, last of all."""
        keeper = self._keepers.pop("nats-server", None)
        if keeper is not None:
            keeper.cancel()
        if self._server is not None:
            await self._server.stop()

    def log_file(self, name: str) -> Path:
        """Give a child's log file."""
        return self._log_folder / f"{name}.log"

    async def _keep(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        pause = 0.25
        loop = asyncio.get_running_loop()
        while True:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            began = loop.time()
            with self.log_file(name).open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **environment},
                    preexec_fn=die_with_parent,
                    start_new_session=True,
                )
            self._children[name] = child
            code = await child.wait()
            if code == FATAL:
                self._fail(f"{name} can't run: {self._last_line(name)}")
                return
            pause = 0.25 if loop.time() - began > 30 else min(pause * 2, LONGEST_PAUSE)
            log.warning("%s ended (exit code %s); starting it again in %.1f s", name, code, pause)
            await asyncio.sleep(pause)

    async def _keep_server(self, server: EmbeddedServer) -> None:
        while True:
            code = await server.wait()
            log.warning("nats-server ended (exit code %s); starting it again", code)
            await asyncio.sleep(0.25)
            try:
                await server.start()
            except Exception as error:
                self._fail(str(error))
                return

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(ChildFailed(reason))

    def _last_line(self, name: str) -> str:
        try:
            lines = self.log_file(name).read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return lines[-1] if lines else "it said nothing"
