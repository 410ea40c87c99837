"""The metrics of all workers of a gateway, at whichever of them is scraped.

Each worker tells its own at an abstract Unix socket: to processes of the same user, and also while
NATS is away. Each sample gets the label `worker`, so that a counter is never less than before while
its worker lives, and begins at 0 with the next one, as `rate` expects.
"""

import asyncio
import logging
import os
import socket
import struct

from nebula.actors.gateway.figures import WORKER_UP, GatewayFigures
from nebula.metrics.exposition import Exposition
from nebula.metrics.merging import LARGEST, Merged

log = logging.getLogger(__name__)

ANSWER = 3.0
"""Seconds that a worker gets to tell its metrics: it asks NATS for 2 s at most."""

_CREDENTIALS = struct.Struct("3i")
_MISSING = f"# TYPE {WORKER_UP} gauge\n{WORKER_UP} 0\n"


class WorkerMetrics:
    """Those of one worker, by its number of so many; `mark`: the name that all have in common."""

    def __init__(self, figures: GatewayFigures, number: int, of: int, mark: str) -> None:
        self._figures = figures
        self._number = number
        self._of = of
        self._mark = mark
        figures.worker = number
        figures.together = self.scrape

    async def run(self) -> None:
        """Tell the other workers this one's metrics, for ever."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(self._address(self._number))
            server = await asyncio.start_unix_server(self._answer, sock=listening)
        except OSError as error:
            log.warning("the other workers get no metrics of this one: %s", error)
            listening.close()
            return
        async with server:
            await server.serve_forever()

    async def scrape(self) -> Exposition:
        """Return those of all workers, each sample with the number of its worker."""
        numbers = range(1, self._of + 1)
        texts = await asyncio.gather(*(self._text(number) for number in numbers))
        merged = Merged(LARGEST * self._of)
        for number, text in zip(numbers, texts, strict=True):
            labels = {"worker": str(number)}
            if text is None or not merged.add(text, labels):
                merged.add(_MISSING, labels)
        return Exposition(merged.text().encode())

    def _address(self, number: int) -> str:
        return f"\0nebula-worker-{self._mark}-{number}"

    async def _text(self, number: int) -> str | None:
        """Return a worker's own metrics; None if it does not tell them."""
        if number == self._number:
            return (await self._figures.scrape()).body.decode()
        try:
            async with asyncio.timeout(ANSWER):
                return await self._ask(number)
        except (OSError, TimeoutError, ValueError):
            return None

    async def _ask(self, number: int) -> str | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._address(number))
            if not _of_this_user(connection):
                raise PermissionError("another user's program has that address")
            reader, writer = await asyncio.open_unix_connection(sock=connection)
        except OSError:
            connection.close()
            raise
        try:
            parts, size = [], 0
            while part := await reader.read(65536):
                size += len(part)
                if size > LARGEST:
                    return None
                parts.append(part)
            return b"".join(parts).decode() or None
        finally:
            writer.close()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _of_this_user(writer.get_extra_info("socket")):
                writer.write((await self._figures.scrape()).body)
                await writer.drain()
        except OSError as error:
            log.debug("metrics could not be told: %s", error)
        finally:
            writer.close()


def _of_this_user(connection: socket.socket) -> bool:
    """Return whether the process at a Unix socket's other end belongs to this process's user."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(told)
    return bool(user == os.geteuid())
