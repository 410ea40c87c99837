"""uvicorn's HTTP protocol, but what is written in one turn of the event loop leaves as one write.

uvicorn writes an answer's head and its body apart, and uvloop hands each to the kernel at once: two
system calls, two packets and two wake-ups of the client for every short answer.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class TurnProtocol(HttpToolsProtocol):
    """See the module."""

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
