"""`nebula gateway --workers N`: keeps N gateways running, which answer at one address.

This process listens, hands each connection to a worker (`nebula/http/server/handing_out.py`), and
starts a worker that has died again. Each worker is a gateway of its own, in a process of its own,
with its own connection to NATS. None outlives this process.
"""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence

from msgspec import Struct

from nebula.actors.actor import cancel
from nebula.cli.exits import FATAL, USAGE, fail
from nebula.cli.listening import listened
from nebula.cli.process import on_stop
from nebula.cli.restarting import pause_after
from nebula.cli.worker import Told, Worker, line_of
from nebula.events.reading import decoded
from nebula.http.server.handing_out import Hand, HandingOut
from nebula.http.server.listening import HostPort
from nebula.http.server.unix_sockets import UnixSocket
from nebula.store.server import die_with_parent

log = logging.getLogger(__name__)

_MARK_BYTES = 16


class _Failed(Struct, frozen=True):
    """Why a worker can't run at all."""

    number: int
    code: int
    why: str


class Workers:
    """The workers of a gateway. `arguments`: those that `nebula` was given, for each of them."""

    def __init__(self, handing: HandingOut, count: int, arguments: Sequence[str]) -> None:
        self._handing = handing
        self._count = count
        self._line = (sys.executable, "-m", "nebula.cli.main", *arguments)
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._begun = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failed: asyncio.Future[_Failed] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Keep them running until `stop`. End the program if one of them can't run at all."""
        keepers = [asyncio.create_task(self._keep(1), name="worker 1")]
        begun = asyncio.create_task(self._begun.wait())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            # What is wrong with the first is said once: the others start when it has read the log.
            ending = (stopped, self._failed)
            await asyncio.wait((begun, *ending), return_when=asyncio.FIRST_COMPLETED)
            if not any(each.done() for each in ending):
                keepers += [
                    asyncio.create_task(self._keep(number), name=f"worker {number}")
                    for number in range(2, self._count + 1)
                ]
                await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                self.stop()
            await asyncio.gather(*keepers)
        finally:
            await cancel([begun, stopped, *keepers])
        if self._failed.done():
            failed = self._failed.result()
            if len(keepers) == 1:  # it has said so itself, as the last line
                raise SystemExit(failed.code)
            fail(f"worker {failed.number} can't run: {failed.why}", failed.code)

    def stop(self) -> None:
        """End all of them; a second call hurries them."""
        self._stopping.set()
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, number: int) -> None:
        """Run a worker, and start it again when it ends, until all are to end."""
        loop, pause = asyncio.get_running_loop(), 0.0
        while not self._stopping.is_set():
            began = loop.time()
            code, why = await self._run(number)
            if self._stopping.is_set():
                return
            if code in (FATAL, USAGE):
                if not self._failed.done():
                    why = why or f"it ended with exit code {code}"
                    self._failed.set_result(_Failed(number, code, why))
                return
            pause = pause_after(loop.time() - began, pause)
            log.warning(
                "worker %d ended (%s); starting it again in %.1f s", number, _how(code), pause
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _run(self, number: int) -> tuple[int, str]:
        """Run a worker to its end; return its exit code and what it says of it."""
        hand = Hand()
        at_once = not self._handing.hands
        channel = hand.theirs.fileno()
        worker = Worker(number, self._count, os.getpid(), channel, hand.memory, self._mark, at_once)
        try:
            process = await asyncio.create_subprocess_exec(
                *(*self._line, "--as-worker", line_of(worker)),
                stdin=asyncio.subprocess.DEVNULL,
                preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),
                pass_fds=(channel, hand.memory),
                start_new_session=True,
            )
        except OSError as error:
            hand.let_go()
            hand.close()
            log.warning("worker %d can't be started: %s", number, error)
            return 1, str(error)
        hand.let_go()
        self._running[number] = process
        if self._stopping.is_set():
            process.terminate()
        hearing = asyncio.create_task(self._hear(hand))
        try:
            code = await process.wait()
            return code, await hearing
        finally:
            await cancel([hearing])
            del self._running[number]
            self._handing.remove(hand)
            hand.close()

    async def _hear(self, hand: Hand) -> str:
        """Act upon what a worker tells, until its end; return why it ended, if it has said so."""
        loop, rest, why = asyncio.get_running_loop(), b"", ""
        while True:
            try:
                heard = await loop.sock_recv(hand.channel, 4096)
            except OSError:
                heard = b""
            if not heard:
                return why
            *lines, rest = (rest + heard).split(b"\n")
            for line in lines:
                match decoded(line, Told):
                    case Told(kind="takes"):
                        self._handing.add(hand)
                    case Told(kind="begun"):
                        self._begun.set()
                    case Told(kind="leaves") if not self._stopping.is_set():
                        self._handing.remove(hand)  # if all end, each refuses what is new
                    case Told(kind="failed", text=text):
                        why = text


def _how(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


async def keep_workers(place: HostPort | UnixSocket, count: int, arguments: Sequence[str]) -> None:
    """Listen at a place, and keep so many workers until a signal.

    `arguments`: those that `nebula` was given. End the program if that is impossible.
    """
    listening = listened(place, 1)
    handing = HandingOut(listening)
    workers = Workers(handing, count, arguments)
    on_stop(workers.stop)
    log.info("listening on %s, for %d workers", place.described, count)
    try:
        await workers.run()
    finally:
        handing.close()
        place.close()
