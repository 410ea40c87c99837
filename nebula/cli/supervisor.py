"""Keeps `nebula up`'s child processes running: starts them, restarts them, ends them in order."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from nebula.actors.actor import cancel
from nebula.cli.process import FATAL
from nebula.store import child_output
from nebula.store.server import EmbeddedServer, ServerFailed, die_with_parent
from nebula.store.watch import StoreWatch
from nebula.store.writability import WARN_BELOW

log = logging.getLogger(__name__)

LONGEST_PAUSE = 10.0

RESTART_PATIENCE = 300.0
"""Seconds that a nats-server which has run before gets to read its store."""


class ChildFailed(Exception):
    """A child can't run at all; a restart would not help."""


class Supervisor:
    """A handful of children, and perhaps the embedded NATS server, that live and die together."""

    def __init__(
        self, log_folder: Path, server: EmbeddedServer | None, *, warn_below: int = WARN_BELOW
    ) -> None:
        self._log_folder = log_folder
        self._server = server
        self._warn_below = warn_below
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start_server(self) -> None:
        """Start the embedded server and keep it running. Raises ServerFailed.

        What it and the children write is bounded from here on.
        """
        folders = [self._log_folder] + ([self._server.folder] if self._server is not None else [])
        bounding = child_output.keep_bounded(folders, child_output.LIMIT)
        self._keepers["logs"] = asyncio.create_task(bounding)
        if self._server is not None:
            try:
                await self._server.start()
            except BaseException:
                await self._server.stop()
                raise
            self._keepers["nats-server"] = asyncio.create_task(self._keep_server(self._server))
            watch = StoreWatch(self._server, below=self._warn_below)
            self._keepers["store watch"] = asyncio.create_task(watch.run())

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
        keepers = [self._keepers.pop(each, None) for each in ("logs", "store watch", "nats-server")]
        await cancel(keeper for keeper in keepers if keeper is not None)
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
            began = loop.time()
            with self._output(name) as output:
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

    def _output(self, name: str) -> IO[bytes]:
        """Open a child's log file; one that can't be had must not keep the child from running."""
        try:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            return self.log_file(name).open("ab")
        except OSError as error:
            log.error("what %s says is lost: %s", name, error)
            return Path(os.devnull).open("ab")

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Start the server again whenever it ends, for as long as that takes.

        Engines and what they are at go on meanwhile: ending them would help nobody.
        """
        while True:
            code = await server.wait()
            log.warning("nats-server ended (exit code %s); starting it again", code)
            pause, said = 0.25, ""
            while True:
                await asyncio.sleep(pause)
                try:
                    await server.start(RESTART_PATIENCE)
                    break
                except ServerFailed as error:
                    await server.end()  # two on one store would lose what is acknowledged
                    if str(error) != said:
                        log.error("%s; trying again", error)
                    pause, said = min(pause * 2, LONGEST_PAUSE), str(error)

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(ChildFailed(reason))

    def _last_line(self, name: str) -> str:
        lines = child_output.tail(self.log_file(name), 1)
        return lines[-1] if lines else "it said nothing"
