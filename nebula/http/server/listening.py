"""The gateway's listening sockets, each of which accepts several connections per turn.

libuv, on which uvloop is built, accepts one connection per listening socket and turn of the event
loop. Under load a turn takes a tenth of a second, so new clients would wait for many seconds while
the kernel's queue overflows. Each duplicate descriptor of a socket accepts one more.
"""

import errno
import ipaddress
import os
import socket
from typing import Any

from msgspec import Struct

TURNS_TAKE = 16
"""Connections that are accepted in one turn of the event loop, at most."""

BACKLOG = 2048
"""Connections that wait to be accepted, at most."""

_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors of a machine that lacks an address, or IPv6."""


class NotAHost(ValueError):
    """The host to listen on is not an address or name of this machine; the text says why."""


class CantListen(OSError):
    """Listening on an address of this machine failed; the text says why, and what to do."""


class HostPort(Struct, frozen=True):
    """The place of a gateway that listens on a port of a host's addresses."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address by which this machine reaches it."""
        return url(self.host, self.port)

    @property
    def described(self) -> str:
        """Where it is, for a line of the log."""
        if not everywhere(self.host):
            return self.url
        return f"port {self.port} of all addresses, here {self.url}"

    def listen(self, turns_take: int = TURNS_TAKE) -> list[socket.socket]:
        """Listen; `turns_take` as for `listen`. Raise NotAHost, CantListen."""
        return listen(self.host, self.port, turns_take)

    def close(self) -> None:
        """Do nothing: a port needs no cleaning up."""


def bare(host: str) -> str:
    """Return a host without the brackets that an IPv6 address has in a URL.

    Raise NotAHost for text that can't be a host, without network access.
    """
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not inside.strip():
        raise NotAHost("an address is needed: 127.0.0.1, ::1, or 0.0.0.0 or :: for all there are")
    if inside != host:
        try:
            ipaddress.IPv6Address(inside)
        except ValueError:
            raise NotAHost(f"{host!r} is not a valid IPv6 address") from None
    elif not inside.isascii() or any(each in inside for each in "/[]@ ?#,"):
        raise NotAHost(f"{host!r} is not a valid address or host name")
    return inside


def url(host: str, port: int) -> str:
    """Return the URL by which this machine reaches a server that listens on a host."""
    inside = bare(host)
    if everywhere(inside):
        inside = "127.0.0.1"
    return f"http://[{inside}]:{port}" if ":" in inside else f"http://{inside}:{port}"


def reached_at(host: str, port: int) -> str:
    """Return HOST:PORT by which others reach a server that listens on a host."""
    inside = bare(host)
    if everywhere(inside):
        inside = socket.gethostname()
    return f"[{inside}]:{port}" if ":" in inside else f"{inside}:{port}"


def everywhere(host: str) -> bool:
    """Return whether a host stands for all addresses of the machine."""
    try:
        return ipaddress.ip_address(bare(host)).is_unspecified
    except ValueError:
        return False


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Return the addresses of a host, each with its family. Raise NotAHost.

    `localhost` has both loopback addresses (RFC 6761 6.3), whatever /etc/hosts says.
    """
    inside = bare(host)
    if inside.lower().removesuffix(".") == "localhost":
        v4, v6 = ("127.0.0.1", port), ("::1", port, 0, 0)
        return [(socket.AF_INET, v4), (socket.AF_INET6, v6)]
    try:
        found = socket.getaddrinfo(inside, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotAHost(f"{host!r} is not an address or a known host name: {reason}") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def listen(host: str, port: int, turns_take: int = TURNS_TAKE) -> list[socket.socket]:
    """Listen on all addresses of a host; `::` includes IPv4.

    `turns_take`: the number of sockets, as far as there are no more addresses.

    Addresses of a name that the machine lacks are skipped if it has another one. Raise NotAHost,
    CantListen.
    """
    firsts: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses(host, port):
        if firsts and not port:
            address = (address[0], firsts[0].getsockname()[1], *address[2:])
        try:
            firsts.append(_listen(family, address))
        except OSError as error:
            if error.errno in _MISSING:
                missing = error
                continue
            for each in firsts:
                each.close()
            raise CantListen(error.errno, _why(error, host, port)) from error
    if not firsts:
        assert missing is not None
        raise NotAHost(f"{host!r} is not an address of this machine: {missing.strerror}")
    return [
        *firsts,
        *(first.dup() for first in firsts for _ in range(turns_take // len(firsts) - 1)),
    ]


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = not ipaddress.ip_address(address[0].partition("%")[0]).is_unspecified
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _why(error: OSError, host: str, port: int) -> str:
    where = f"can't listen on {url(host, port).removeprefix('http://')}"
    if everywhere(host):
        where = f"can't listen on port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; give another --port"
    if error.errno == errno.EACCES:
        return f"{where}: this user may not use ports below 1024; give another --port"
    return f"{where}: {os.strerror(error.errno) if error.errno else error}"
