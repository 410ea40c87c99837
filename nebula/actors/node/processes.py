"""Engine processes: starts them in their own group, finds them again, watches and ends them.

It does not know what the processes serve.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from nebula.actors.node import identity, log_marks
from nebula.actors.node.engine_mark import EngineMark
from nebula.actors.node.secret_masks import Mask, unmasked
from nebula.store import child_output, private

POLL = 0.25
"""Seconds between two looks at a process that is not a child, or at an ending group."""


ENDED = "it ended while no node watched it"


class NotAdopted(Exception):
    """An engine that the log has as running is not adopted; the text says why."""


class EngineProcess:
    """One engine, which leads its process group: a child, or adopted from an earlier process.

    `mask` masks in its output what it was given as secrets.
    """

    def __init__(
        self,
        pid: int,
        birth: str,
        log_file: Path,
        child: asyncio.subprocess.Process | None = None,
        log_start: int | None = None,
    ) -> None:
        self.pid = pid
        self.birth = birth
        self.created = time.time()
        self.mask: Mask = unmasked
        self.log_file = log_file
        self._child = child
        self._log_start = log_start

    @classmethod
    async def start(
        cls, arguments: Sequence[str], environment: Mapping[str, str], log_file: Path
    ) -> "EngineProcess":
        """Start a program with its output in `log_file`. Raise OSError if it can't be run."""
        private.folder(log_file.parent)
        log_start = log_marks.begin(log_file)
        with private.opened(log_file, "ab") as output:
            child = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(child.pid, identity.birth(child.pid), log_file, child, log_start)

    @classmethod
    def adopt(cls, pid: int, birth: str, log_file: Path, mark: EngineMark) -> "EngineProcess":
        """Adopt a running process. Raise NotAdopted if it is gone, or is not the one with `mark`.

        `birth` is what was reported at its start; older versions reported none.
        """
        found = identity.birth(pid)
        if not found or birth not in ("", found):
            raise NotAdopted(ENDED)
        told = identity.mark(pid)
        objection = "it has no mark that can be read" if told is None else mark.objection(told)
        if objection:
            raise NotAdopted(
                f"process {pid}, which its report names, is not its engine: {objection}"
            )
        return cls(pid, found, log_file, log_start=log_marks.beginning(log_file))

    @property
    def adopted(self) -> bool:
        """Whether an earlier node process started it: then its exit code can't be known."""
        return self._child is None

    @property
    def alive(self) -> bool:
        """Whether the group's leader still runs."""
        if self._child is not None:
            return self._child.returncode is None
        return bool(self.birth) and identity.birth(self.pid) == self.birth

    async def wait(self) -> int | None:
        """Wait for the leader's end, and kill the rest of its group.

        Return the exit code (negative for a signal), None for an adopted process.
        """
        code: int | None = None
        if self._child is not None:
            code = await self._child.wait()
        else:
            while self.alive:  # noqa: ASYNC110 - the kernel tells only parents
                await asyncio.sleep(POLL)
        if self._owns_group():
            _signal(self.pid, signal.SIGKILL)
        return code

    async def gone(self) -> None:
        """Wait until the group of an ended leader is gone.

        That may take seconds: a killed process needs its core to end, which others may keep busy.
        """
        if self._owns_group():
            await end_group(self.pid, grace=0)

    async def end(self, grace: float) -> None:
        """End the whole group with SIGTERM, and after `grace` seconds with SIGKILL."""
        if self._owns_group():
            await end_group(self.pid, grace=grace)

    def kill(self) -> None:
        """End the whole group with SIGKILL; a waiting `wait` returns."""
        if self._owns_group():
            _signal(self.pid, signal.SIGKILL)

    def _owns_group(self) -> bool:
        """Return whether the group of its pid is still its own.

        The kernel gives no process a pid that is still a group's.
        """
        return identity.birth(self.pid) in ("", self.birth)

    def log_size(self) -> int:
        """Return how many bytes were written to its log file, including rotated ones."""
        return child_output.end(self.log_file)

    @property
    def log_start(self) -> int:
        """The position where its output begins in its log file; the file's end if unknown."""
        return self.log_size() if self._log_start is None else self._log_start

    def tail(self, lines: int = 40, since: int | None = None) -> tuple[str, ...]:
        """Return the last lines that this engine wrote, or the last ones since a position."""
        start = self._log_start if since is None else since
        return tuple(map(self.mask, child_output.tail(self.log_file, lines, start=start)))


async def end_group(group: int, grace: float) -> None:
    """End every process of a group; return once all are gone (zombies count as gone)."""
    if grace > 0:
        _signal(group, signal.SIGTERM)
        if await _gone(group, grace):
            return
    _signal(group, signal.SIGKILL)
    await _gone(group, 10)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


async def _gone(group: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while _members(group):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def _members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(True for _ in _living(group))


def _living(group: int) -> Iterator[int]:
    """Yield the pids of a group's processes; zombies count as gone."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid
        except (psutil.Error, ProcessLookupError):
            continue


async def end_orphans(leader: int, birth: str, mark: EngineMark, log_file: Path) -> None:
    """End what is left of the group of an engine with this mark that is not adopted.

    Processes may have written their titles over the environment with the mark, but go on writing to
    the engine's `log_file`. Nothing is ended if the machine has booted since the leader's birth.
    The kernel gives no process a pid that is still a group's.
    """
    booted_since = not birth or birth.partition(":")[0] != identity.boot()
    other = identity.birth(leader) not in ("", birth)
    if booted_since or other or leader == os.getpgid(0):
        return
    if any(_is_of(pid, mark, log_file) for pid in _living(leader)):
        await end_group(leader, grace=0)


def _is_of(pid: int, mark: EngineMark, log_file: Path) -> bool:
    told = identity.mark(pid)
    return (told is not None and not mark.objection(told)) or identity.writes_to(pid, log_file)


def marked_groups(node: str, folder: str) -> set[int]:
    """Return the groups of all engines that a node with this name and folder has started."""
    groups = set()
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("NEBULA_NODE") == node and environ.get("NEBULA_NODE_FOLDER") == folder:
                groups.add(os.getpgid(process.pid))
        except (psutil.Error, ProcessLookupError, OSError):
            continue
    groups.discard(os.getpgid(0))
    return groups


def free_port(taken: set[int]) -> int:
    """Return a free TCP port of this machine that is not in `taken`."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
