"""Joins what is written to a client in one turn of the event loop into one write.

An answer's head and body are written separately, and uvloop passes each to the kernel at once: two
system calls, two packets and two wake-ups of the client for every short answer.
"""

import asyncio
import socket
import struct
from typing import Any

_AT_ONCE = struct.pack("ii", 1, 0)


class TurnTransport:
    """A transport that keeps written data until the end of the turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self._kept: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep data until the end of the turn."""
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept.append(data)

    def write_now(self, data: bytes) -> None:
        """Write data behind what is kept, if anything is."""
        if self._kept:
            self._kept.append(data)
        elif not self.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """Write the kept data, then close the sending side."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write the kept data, then close."""
        self._flush()
        self._transport.close()

    def reset(self) -> None:
        """End with a reset, so that the written part does not look complete."""
        own = self._transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        if kept and not self.is_closing():  # its client may have left in this turn
            self._transport.write(kept[0] if len(kept) == 1 else b"".join(kept))
