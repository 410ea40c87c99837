"""Keeps `nebula up`'s child processes running: starts them, restarts them, ends them in order."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from nebula.actors.actor import cancel
from nebula.cli.embedded import LogKeeper
from nebula.cli.log_lines import message_of
from nebula.cli.process import FATAL
from nebula.cli.restarting import LONGEST, pause_after
from nebula.store import child_output, private
from nebula.store.server import EmbeddedServer, ServerFailed, die_with_parent
from nebula.store.watch import StoreWatch
from nebula.store.writability import WARN_BELOW

log = logging.getLogger(__name__)

AT_ONCE = 5.0
"""Seconds that a child gets to end after the second signal."""

_AGAIN = 0.2

RESTART_PATIENCE = 300.0
"""Seconds that a restarted nats-server gets to read its store."""


class ChildFailed(Exception):
    """A child can't run at all, so that a restart would not help."""


class Supervisor:
    """The child processes of `nebula up`, which end together, with its NATS server if any."""

    def __init__(
        self,
        log_folder: Path,
        server: EmbeddedServer | None,
        *,
        warn_below: int = WARN_BELOW,
        stream_replicas: int = 1,
    ) -> None:
        self._log_folder = log_folder
        self._server = server
        self._warn_below = warn_below
        self._stream_replicas = stream_replicas
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._hurried = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start_server(self) -> None:
        """Start the embedded server, create its log and keep both. Raise ServerFailed.

        From here on the log files of the server and the children are bounded.
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
            keeper = LogKeeper(watch, self._stream_replicas)
            self._keepers["log"] = asyncio.create_task(keeper.run())
            await keeper.created()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a child and keep it running; its output goes to its own log file."""
        self._keepers[name] = asyncio.create_task(self._keep(name, arguments, environment))

    async def failure(self) -> None:
        """Wait until a child can't be kept running. Raise ChildFailed."""
        await asyncio.shield(self._failed)

    async def stop(self, names: Sequence[str], patience: float) -> None:
        """End children one after the other; those that take longer than `patience` s are killed.

        After `hurry` they get a second signal, and AT_ONCE seconds.
        """
        for name in names:
            keeper = self._keepers.pop(name, None)
            if keeper is not None:
                keeper.cancel()
        for name in names:
            child = self._children.get(name)
            if child is None or child.returncode is not None:
                continue
            child.send_signal(signal.SIGTERM)
            if not await self._ended(child, patience):
                log.warning("%s did not end in %.0f s: killing it", name, patience)
                child.kill()
                await child.wait()

    def hurry(self) -> None:
        """Let children end at once, those that are ending now and those that end later."""
        self._hurried.set()

    async def _ended(self, child: asyncio.subprocess.Process, patience: float) -> bool:
        """Return whether a child ends in time after its signal."""
        waiting = asyncio.ensure_future(child.wait())
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait(
                (waiting, hurried), timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for _ in range(round(AT_ONCE / _AGAIN) if hurried.done() else 0):
                # The kernel merges two signals that arrive before the child handles the first.
                await asyncio.wait((waiting,), timeout=_AGAIN)
                if waiting.done():
                    break
                child.send_signal(signal.SIGTERM)
            return waiting.done()
        finally:
            waiting.cancel()
            hurried.cancel()

    async def stop_server(self) -> None:
        """End the embedded server, after everything else."""
        names = ("logs", "log", "store watch", "nats-server")
        keepers = [self._keepers.pop(each, None) for each in names]
        await cancel(keeper for keeper in keepers if keeper is not None)
        if self._server is not None:
            await self._server.stop()

    def log_file(self, name: str) -> Path:
        """Return a child's log file."""
        return self._log_folder / f"{name}.log"

    async def _keep(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        pause = 0.0
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
                said = self._last_word(name, output)
            if code == FATAL:
                self._fail(f"{name} can't run: {message_of(said) or 'it said nothing'}")
                return
            pause = pause_after(loop.time() - began, pause)
            log.warning("%s ended (exit code %s); starting it again in %.1f s", name, code, pause)
            await asyncio.sleep(pause)

    def _last_word(self, name: str, output: IO[bytes]) -> str:
        """Return a child's last line, even if its log file was deleted meanwhile.

        A child that has noticed continues in a new file; otherwise its line is in the file that is
        open here.
        """
        try:
            with self.log_file(name).open("rb") as there:
                said = child_output.last_line(there)
        except OSError:
            said = ""
        return said or child_output.last_line(output)

    def _output(self, name: str) -> IO[bytes]:
        """Open a child's log file; the child runs even if the file can't be opened."""
        try:
            private.folder(self._log_folder)
            return private.opened(self.log_file(name), "a+b")
        except OSError as error:
            log.error("what %s says is lost: %s", name, error)
            return Path(os.devnull).open("a+b")

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Start the server again whenever it ends, however long that takes.

        Engines and their requests continue meanwhile: ending them would not help.
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
                    await server.end()  # two servers on one store would lose acknowledged events
                    if str(error) != said:
                        log.error("%s; trying again", error)
                    pause, said = min(pause * 2, LONGEST), str(error)

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(ChildFailed(reason))
