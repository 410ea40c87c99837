"""A client that speaks HTTP byte by byte: what it sends is exactly what a test says."""

import socket
import time
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from tests.integration.asking import chat

PATIENCE = 20.0


class Answer(NamedTuple):
    """One answer as it came."""

    status: int
    version: str
    fields: dict[str, str]
    body: bytes
    raw_head: bytes
    interim: tuple[int, ...]

    def json(self) -> Any:
        """Return what the body says."""
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Return the inside of an error in OpenAI's form."""
        inside: dict[str, Any] = self.json()["error"]
        assert inside["message"], self
        return inside


class Wire:
    """One connection."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), PATIENCE)
        self._got = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, *parts: bytes) -> "Wire":
        """Send bytes, each part in a packet of its own, so far as the kernel lets it."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, part in enumerate(parts):
            if number:
                time.sleep(0.02)  # or the kernel would hand both over in one read
            self._socket.sendall(part)
        return self

    def end(self) -> None:
        """Close the sending side."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer to a request with a method; what follows it stays for the next."""
        interim: tuple[int, ...] = ()
        while True:
            head = self._until(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            version, status = first.split(" ")[:2]
            if int(status) >= 200:
                break
            interim = (*interim, int(status))
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in fields, f"{name} comes twice: {head!r}"
            fields[name.lower()] = value
        body = b""
        if method == "HEAD" or int(status) in (204, 304):
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size + 2)[:-2]
            assert self._exactly(2) == b"\r\n"
        elif "content-length" in fields:
            body = self._exactly(int(fields["content-length"]))
        else:
            body = self.rest()
        return Answer(int(status), version, fields, body, head, interim)

    def ask(self, *parts: bytes, method: str = "GET") -> Answer:
        """Send parts and read one answer."""
        return self.send(*parts).answer(method)

    def rest(self, patience: float = PATIENCE) -> bytes:
        """Return all that comes until the other side closes, which it has to do in time."""
        self._socket.settimeout(patience)
        while part := self._socket.recv(65536):
            self._got += part
        got, self._got = self._got, b""
        return got

    def switched(self) -> "Wire":
        """Wait until the other side has switched to another protocol."""
        head = self._until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return self

    def silent(self, seconds: float = 0.3) -> bool:
        """Return whether nothing comes for a while, and the connection stays."""
        self._socket.settimeout(seconds)
        try:
            part = self._socket.recv(65536)
        except TimeoutError:
            return not self._got
        finally:
            self._socket.settimeout(PATIENCE)
        self._got += part
        return False

    def _until(self, end: bytes) -> bytes:
        while end not in self._got:
            part = self._socket.recv(65536)
            assert part, f"closed within an answer: {self._got!r}"
            self._got += part
        found, _, self._got = self._got.partition(end)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._got) < size:
            part = self._socket.recv(65536)
            assert part, f"closed within an answer: {self._got!r}"
            self._got += part
        found, self._got = self._got[:size], self._got[size:]
        return found


BODY = msgspec.json.encode(chat("chat", "a b c d", max_tokens=4))


def lines(*fields: str) -> bytes:
    """Return field lines."""
    return "".join(f"{field}\r\n" for field in fields).encode("latin-1")


def request(
    line: str = "GET /v1/models HTTP/1.1", *fields: str, body: bytes = b"", host: str = "localhost"
) -> bytes:
    """Return a request with a Host, and a Content-Length where there is a body."""
    sized = (f"Content-Length: {len(body)}",) if body else ()
    named = (f"Host: {host}",) if host else ()
    return f"{line}\r\n".encode("latin-1") + lines(*named, *sized, *fields) + b"\r\n" + body


def ask_chat(*fields: str, body: bytes = BODY, version: str = "1.1") -> bytes:
    """Return a chat request."""
    line = f"POST /v1/chat/completions HTTP/{version}"
    return request(line, "Content-Type: application/json", *fields, body=body)


def chunked(*parts: bytes, fields: tuple[str, ...] = (), trailer: bytes = b"") -> bytes:
    """Return a chat request whose body comes in chunks."""
    coded = request("POST /v1/chat/completions HTTP/1.1", "Transfer-Encoding: chunked", *fields)
    for part in parts:
        coded += b"%x\r\n%b\r\n" % (len(part), part)
    return coded + b"0\r\n" + trailer + b"\r\n"
