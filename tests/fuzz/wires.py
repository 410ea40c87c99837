"""Requests that are bad as bytes: too large, too many, too slow, or cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.fuzz.bodies import MIB
from tests.fuzz.verdicts import Verdicts

PATIENCE = 120.0
GIB = 1024 * MIB


class Line:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, port: int) -> AsyncIterator["Line"]:
        """Open a connection to a port of this machine."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes) -> bool:
        """Send bytes; return whether the gateway still reads."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            return False
        return not self._reader.at_eof()

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and the body of an answer; 0 if the connection ends without one."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                body = await self._reader.readexactly(int(length or 0))
            except (asyncio.IncompleteReadError, OSError):
                return 0, b""
        return int(head.split(b" ")[1]), body


def head(path: str, *fields: str, method: str = "POST") -> bytes:
    """Return a request's head."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


JSON = "Content-Type: application/json"


async def asked(port: int, path: str, verdicts: Verdicts, anthropic: bool) -> None:
    """Try what can be wrong with the bytes of a request for a path."""

    async def take(name: str, *parts: bytes, end: bool = False) -> None:
        async with Line.opened(port) as line:
            for part in parts:
                if not await line.send(part):
                    break
            status, body = (400, b"") if end else await line.answer()
        verdicts.take("bytes", f"{path}: {name}", status, body, anthropic=anthropic, refused=True)

    many = [f"X-{number}: y" for number in range(10_000)]
    await take("10,000 header fields", head(path, JSON, *many, "Content-Length: 2") + b"{}")
    await take("a field of 1 MiB", head(path, JSON, f"X: {'y' * MIB}", "Content-Length: 2") + b"{}")
    await take("a target of 1 MiB", head(f"{path}?{'x' * MIB}", JSON, "Content-Length: 2") + b"{}")
    await take("1 GiB, as told", head(path, JSON, f"Content-Length: {GIB}"))
    chunk = b"%x\r\n%b\r\n" % (MIB, b" " * MIB)
    endless = (chunk for _ in range(1024))
    await take("1 GiB, as sent", head(path, JSON, "Transfer-Encoding: chunked"), *endless)
    for length in ("-1", "1e3", "2, 3", "9" * 30):
        await take(f"a length of {length}", head(path, JSON, f"Content-Length: {length}") + b"{}")
    await take("a chunk of no size", head(path, JSON, "Transfer-Encoding: chunked") + b"zz\r\n")
    await take("half a body", head(path, JSON, "Content-Length: 100") + b'{"model', end=True)
    await take("half a head", head(path, JSON)[:-8], end=True)


async def slow(port: int, path: str, verdicts: Verdicts, anthropic: bool, lines: int) -> None:
    """Hold many connections with heads and bodies that never end, until they are refused."""

    async def hold(name: str, data: bytes) -> None:
        async with Line.opened(port) as line:
            await line.send(data)
            status, body = await line.answer()
        verdicts.take("slow", f"{path}: {name}", status, body, anthropic=anthropic, refused=True)

    half = head(path, JSON, "Content-Length: 100") + b'{"model": '
    start = head(path, JSON).removesuffix(b"\r\n")
    async with asyncio.TaskGroup() as held:
        for _ in range(lines):
            held.create_task(hold("a slow head", start))
            held.create_task(hold("a slow body", half))
