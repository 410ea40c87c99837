"""uvicorn's HTTP protocol, but what is written in one turn of the event loop leaves as one write,
and a client that reads nothing for long is hung up on.

uvicorn writes an answer's head and its body apart, and uvloop hands each to the kernel at once: two
system calls, two packets and two wake-ups of the client for every short answer.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UNREAD = 60.0
"""Seconds for which a client may read nothing of what waits for it."""


class TurnProtocol(HttpToolsProtocol):
    """See the module."""

    _hanging_up: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """As uvicorn's; if it lasts, it is the end of the connection."""
        super().pause_writing()
        self._hanging_up = asyncio.get_running_loop().call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        """As uvicorn's."""
        super().resume_writing()
        self._goes_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        super().connection_lost(exc)
        self._goes_on()

    def _goes_on(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(cast("asyncio.Transport", TurnTransport(transport)))


class TurnTransport:
    """A transport that keeps what is written until the end of the turn; all else is its own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._kept: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep data until the end of the turn."""
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept.append(data)

    def close(self) -> None:
        """Write what is kept, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        if kept:
            self._transport.write(kept[0] if len(kept) == 1 else b"".join(kept))
