"""What clients of sessions send: kept until the session's engine has fetched it.

An engine asks for the bytes from an offset on, as it does for a large body, and its question waits
until there are some. So it gets no more than it reads, and a lost message costs one question.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from nebula.actors.gateway.budget import Hold

Answer: TypeAlias = Callable[[bytes], None]
"""Sends bytes to the engine that asked."""

POLL = 5.0
"""Seconds after which a question is answered although there is nothing."""

WINDOW = 256 * 1024
"""Bytes that wait for an engine above which no further message is read from the client."""

SESSIONS = 256
"""Sessions of one gateway at most."""


class Uplink:
    """The bytes of one session's client, which count in the gateway's budget (`hold`)."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._start = 0
        self._kept = bytearray()
        self._question: tuple[int, Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()

    @property
    def waiting(self) -> int:
        """The bytes that the engine has not confirmed."""
        return len(self._kept)

    def put(self, data: bytes) -> bool:
        """Add bytes; return False, and add nothing, if the budget has no room for them."""
        if not self._hold.grow(len(data)):
            return False
        self._kept += data
        if len(self._kept) > WINDOW:
            self._room.clear()
        self._serve()
        return True

    async def room(self) -> None:
        """Wait until more may be added."""
        await self._room.wait()

    def asked(self, offset: int, size: int, answer: Answer) -> None:
        """Answer a question for the bytes from `offset` on, which confirms those before it."""
        self._reply(b"")  # an earlier question of the same engine, whose answer was lost
        confirmed = min(max(0, offset - self._start), len(self._kept))
        del self._kept[:confirmed]
        self._start += confirmed
        self._hold.shrink(confirmed)
        if len(self._kept) <= WINDOW:
            self._room.set()
        self._question = (max(1, size), answer)
        self._timer = asyncio.get_running_loop().call_later(POLL, self._reply, b"")
        self._serve()

    def close(self) -> None:
        """Answer what is asked, and keep nothing."""
        self._kept.clear()
        self._hold.release()
        self._room.set()
        self._reply(b"")

    def _serve(self) -> None:
        if self._question is not None and self._kept:
            self._reply(bytes(self._kept[: self._question[0]]))

    def _reply(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._question is not None:
            (_, answer), self._question = self._question, None
            answer(data)
