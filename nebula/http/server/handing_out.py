"""Connections that one process accepts and hands to its workers: a new one where there are fewest.

Workers that accept from one socket don't share evenly: the first to wake takes all that wait. With
a socket for each (SO_REUSEPORT) chance decides, and few connections live long (ADR 79).

A worker has a channel, by which descriptors come, and memory that it shares with this process,
in which it counts those of its connections that have ended, and shows that it does not hang.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""Connections that are accepted, or taken, in one turn of the event loop."""

_PAUSE = 0.05
"""Seconds until the next try where no connection can be accepted or handed on."""

HANGS = 5.0
"""Seconds without a sign of life after which the others get a worker's new connections."""

_SIGN = 1.0
"""Seconds between two signs of life of a worker."""

_FAMILIES = {each.value: each for each in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)}


class Shared:
    """Memory of a worker and of the process that hands it connections; only the worker writes."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, mmap.PAGESIZE)).cast("Q")

    @property
    def ended(self) -> int:
        """How many connections have ended."""
        return self._numbers[0]

    def count(self) -> None:
        """Count a connection that has ended."""
        self._numbers[0] += 1

    @property
    def alive_ns(self) -> int:
        """When the worker last showed that it lives, by the clock of the machine."""
        return self._numbers[1]

    def show_life(self) -> None:
        """Show that the worker lives."""
        self._numbers[1] = time.monotonic_ns()


class Hand:
    """A worker as the process sees it that hands connections to it.

    `theirs`: the worker's end of the channel. `memory`: the descriptor of what they share. `given`:
    how many connections it was handed.
    """

    def __init__(self) -> None:
        self.channel, self.theirs = socket.socketpair()
        self.channel.setblocking(False)
        self.memory = os.memfd_create("nebula-worker")
        os.ftruncate(self.memory, mmap.PAGESIZE)
        self._shared = Shared(self.memory)
        self.given = 0

    @property
    def open(self) -> int:
        """How many connections it has, or is about to get."""
        return self.given - self._shared.ended

    @property
    def hangs(self) -> bool:
        """Whether it has not shown for a while that it lives."""
        return time.monotonic_ns() - self._shared.alive_ns > HANGS * 1e9

    def give(self, connection: socket.socket) -> bool:
        """Hand a connection to the worker; return False if it takes none now. Raise OSError."""
        try:
            socket.send_fds(self.channel, [bytes((connection.family,))], [connection.fileno()])
        except BlockingIOError:
            return False
        self.given += 1
        return True

    def let_go(self) -> None:
        """Close the worker's ends of what it has inherited."""
        self.theirs.close()
        os.close(self.memory)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class HandingOut:
    """Accepts connections for workers, from now on. Without a worker they wait in the kernel."""

    def __init__(self, listening: Sequence[socket.socket]) -> None:
        self._listening = listening
        self._hands: list[Hand] = []
        self._held: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        for each in listening:
            each.setblocking(False)

    @property
    def hands(self) -> int:
        """How many workers take connections."""
        return len(self._hands)

    def add(self, hand: Hand) -> None:
        """Let a worker have its share of new connections."""
        self._hands.append(hand)
        if len(self._hands) == 1:
            self._resume()

    def remove(self, hand: Hand) -> None:
        """Hand nothing more to a worker, if it was there."""
        if hand in self._hands:
            self._hands.remove(hand)
            if not self._hands:
                self._halt()

    def close(self) -> None:
        """Listen no more."""
        self._halt()
        self._hands.clear()
        if self._held is not None:
            self._held.close()
        for each in self._listening:
            each.close()

    def _resume(self) -> None:
        self._again = None
        if self._held is not None and not self._hand(self._held):
            self._pause()
            return
        self._held = None
        for each in self._listening if self._hands else ():
            self._loop.add_reader(each, self._accept, each)

    def _halt(self) -> None:
        if self._again is not None:
            self._again.cancel()
        for each in self._listening:
            self._loop.remove_reader(each)

    def _pause(self) -> None:
        self._halt()
        if self._hands:
            self._again = self._loop.call_later(_PAUSE, self._resume)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # its client has left already
            except OSError as error:
                log.warning("no connection can be accepted: %s", error)
                self._pause()
                return
            if not self._hand(connection):
                self._held = connection
                self._pause()
                return

    def _hand(self, connection: socket.socket) -> bool:
        """Hand a connection to the worker with the fewest that takes it; return whether one did.

        One that hangs comes after all others.
        """
        for hand in sorted(self._hands, key=lambda each: (each.hangs, each.open, each.given)):
            try:
                if hand.give(connection):
                    connection.close()
                    return True
            except OSError:
                self.remove(hand)  # it has died
        return False


class Handed:
    """The connections of a worker. `channel`, `memory`: descriptors that it has inherited."""

    def __init__(self, channel: int, memory: int) -> None:
        self._channel = socket.socket(fileno=channel)
        self._channel.setblocking(False)
        self._shared = Shared(memory)
        os.close(memory)
        self._beginning: set[asyncio.Task[None]] = set()
        self._next_sign: asyncio.TimerHandle | None = None

    def tell(self, text: bytes) -> None:
        """Send a message to the process that hands them on; it may be gone."""
        with contextlib.suppress(OSError):
            self._channel.send(text)

    def ended(self) -> None:
        """Count a connection that has ended."""
        self._shared.count()

    def take(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Serve what is handed to this worker from now on; `protocol`: makes that of each."""
        self._show_life()
        asyncio.get_running_loop().add_reader(self._channel, self._arrived, protocol)

    def take_no_more(self) -> None:
        """Leave further connections in the channel, by which more can still be told."""
        if self._next_sign is not None:
            self._next_sign.cancel()
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self.take_no_more()
        self._channel.close()

    def _show_life(self) -> None:
        self._shared.show_life()
        self._next_sign = asyncio.get_running_loop().call_later(_SIGN, self._show_life)

    def _arrived(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        for _ in range(_AT_ONCE):
            try:
                kinds, descriptors, _, _ = socket.recv_fds(
                    self._channel, 1, 1, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                kinds, descriptors = b"", []
            if not kinds:
                asyncio.get_running_loop().remove_reader(self._channel)
                return
            for kind, descriptor in zip(kinds, descriptors, strict=False):
                work = asyncio.create_task(self._begin(kind, descriptor, protocol))
                self._beginning.add(work)
                work.add_done_callback(self._beginning.discard)

    async def _begin(
        self, kind: int, descriptor: int, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        family = _FAMILIES[kind]
        number = 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP
        connection = socket.socket(family, socket.SOCK_STREAM, number, descriptor)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
        except OSError as error:
            log.debug("a connection has ended before it began: %s", error)
            connection.close()
            self.ended()
