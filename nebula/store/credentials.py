"""Files with a NATS server's address and the credentials for it: contexts of the `nats` program.

A context is JSON; `nats --context FILE.json` reads the same file. Nebula reads it again before each
try to connect, so that credentials may change while it runs.
"""

import contextlib
import ipaddress
import os
import secrets
import signal
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from nebula.events.reading import UNREADABLE
from nebula.store import claims, private
from nebula.store.reaching import BadFile, shown

FOLDER = "roles"
"""The folder with a file for each role, beside the configuration of the server that has them."""

SERVER = "nats-server"
_FILE = "file:"


class Way(Struct, frozen=True):
    """The way to a server: URLs with user and password in them, and the prefix of inboxes.

    `token` and `seed`: a signed token about the user, and the user's private key. `ca`, `cert`,
    `key`: files for TLS, of the authority that signed the server's certificate, of the client's own
    certificate and of its key. `file`: the context that all this is from; "" for a URL.
    """

    servers: tuple[str, ...]
    inbox: str = ""
    token: str = ""
    seed: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    file: str = ""

    @property
    def login(self) -> str:
        """The user and where its credentials are from, in words."""
        name = (urlsplit(self.servers[0]).username or "") if self.servers else ""
        if self.token:
            with contextlib.suppress(ValueError):
                name = str(claims.read(self.token).get("name", ""))
        user = f"user {unquote(name)!r}" if name else "a login without a user"
        return f"{user} of {self.file or shown(','.join(self.servers))}"


class Context(Struct, omit_defaults=True):
    """The fields of a context that Nebula uses; it may have others.

    `signing_key` and `account` are Nebula's own: a file with the key that signs users, and the
    public key of their account.
    """

    description: str = ""
    url: str = ""
    token: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    inbox_prefix: str = ""
    signing_key: str = ""
    account: str = ""


def way(url: str, role: str) -> Way:
    """Return the way to a server, or to several joined by commas.

    `url` may be `file:PATH` of a context, or of a file with just URLs. A server of `nebula up` on
    this machine that wants credentials has files with them, of which that of `role` is taken.

    Raise OSError for a file that can't be read, BadFile for one that makes no sense.
    """
    if url.startswith(_FILE):
        return read(path_of(url))
    servers = tuple(url.split(","))
    if len(servers) == 1 and (port := local_port(servers[0])):
        found = local(port, role)
        if found is not None:
            return read(found)
    return Way(servers)


def path_of(url: str) -> Path:
    """Return the path in `file:PATH` or `file:///PATH`."""
    path = url.removeprefix(_FILE)
    return Path(path.removeprefix("//") if path.startswith("///") else path)


def bare(url: str) -> Context:
    """Return the servers of a URL and the names of files for TLS, as a context without credentials.

    `url` may be `file:PATH`, as for `way`. Raise OSError, BadFile.
    """
    known = context_at(path_of(url)) if url.startswith(_FILE) else Context(url=url)
    return Context(url=shown(known.url), ca=known.ca, cert=known.cert, key=known.key)


def read(path: Path) -> Way:
    """Read a context, or URLs alone. Raise OSError, BadFile."""
    context = context_at(path)
    servers = (each.strip() for each in context.url.split(","))
    found = Way(
        tuple(_with_user(each, context) for each in servers),
        context.inbox_prefix,
        ca=beside(path, context.ca),
        cert=beside(path, context.cert),
        key=beside(path, context.key),
        file=str(path),
    )
    if not context.creds:
        return found
    creds = Path(beside(path, context.creds))
    try:
        token, seed = claims.read_credentials(creds.read_text("utf-8", "replace"))
    except ValueError as error:
        raise BadFile(f"{creds}: {error}") from error
    return replace(found, token=token, seed=seed)


def context_at(path: Path) -> Context:
    """Read a context, or URLs alone as one. Raise OSError, BadFile."""
    text = path.read_text("utf-8", "replace").strip()
    if not text.startswith("{"):
        return Context(url=text)
    try:
        context = msgspec.json.decode(text, type=Context)
    except UNREADABLE as error:
        raise BadFile(str(error)) from error
    if not context.url:
        raise BadFile("it has no `url`")
    return context


def beside(file: Path, named: str) -> str:
    """Return the path of a file that a context names: a relative one is beside the context."""
    return str((file.parent / Path(named).expanduser()).absolute()) if named else ""


def _with_user(url: str, context: Context) -> str:
    """Return a server's URL with the context's user, unless it has its own."""
    if not (context.user or context.token):
        return url
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return url
    user = quote(context.user, safe="") + ":" + quote(context.password, safe="")
    login = user if context.user else quote(context.token, safe="")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def local_port(url: str) -> int:
    """Return the port of a server on this machine whose URL has no credentials; 0 for others."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if parts.scheme != "nats" or "@" in parts.netloc or not parts.hostname:
            return 0
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback
        return (parts.port or 4222) if local else 0
    except ValueError:
        return 0


class Running(Struct, frozen=True):
    """A server of `nebula up` that runs on this machine, and its folder."""

    pid: int
    folder: Path


def local(port: int, role: str) -> Path | None:
    """Return the file of a role of the server of `nebula up` at a port of this machine.

    None if there is no such server, or its files may not be read.
    """
    found = running(port, role)
    return file_of(found.folder, role) if found is not None else None


def running(port: int, role: str) -> Running | None:
    """Return the server of `nebula up` at a port of this machine, if a role's file can be read.

    It is found among the processes, by its configuration file: so it does not matter in which
    folder a command is called.
    """
    for process in psutil.process_iter():
        try:
            if process.name() != SERVER:
                continue
            line = process.cmdline()
            folder = Path(process.cwd(), line[line.index("-c") + 1]).parent
        except (psutil.Error, OSError, ValueError, IndexError):
            continue
        try:
            ports = {urlsplit(each).port for each in read(file_of(folder, role)).servers}
        except (OSError, BadFile, ValueError):
            continue
        if port in ports:
            return Running(process.pid, folder)
    return None


def file_of(folder: Path, role: str) -> Path:
    """Return the file with a role's credentials, of the server with this folder."""
    return folder / FOLDER / f"{role}.json"


def ensure(folder: Path, role: str, url: str, inbox: str) -> str:
    """Return a role's password; write its file if that is missing or for another address.

    The password is random and stays until the file is removed. Raise OSError.
    """
    file = file_of(folder, role)
    known = _known(file)
    wanted = Context(
        description=f"Nebula: {role}",
        url=url,
        user=role,
        password=(known.password if known is not None else "") or secrets.token_urlsafe(32),
        inbox_prefix=inbox,
    )
    if known != wanted:
        write(file, wanted)
    return wanted.password


def write(file: Path, context: Context) -> None:
    """Write a context that only the owner can read. Raise OSError."""
    private.write(file, msgspec.json.format(msgspec.json.encode(context), indent=2) + b"\n")


def rotate(server: Running) -> list[str]:
    """Change the password of each role of a server, and return the roles.

    Connections with an old password are ended, and come back with the new one. Raise OSError.
    """
    config = server.folder / "nats-server.conf"
    text = config.read_text("utf-8")
    roles = []
    for file in sorted((server.folder / FOLDER).glob("*.json")):
        known = _known(file)
        if known is not None and known.password and known.password in text:
            new = secrets.token_urlsafe(32)
            text = text.replace(known.password, new)
            write(file, replace(known, password=new))
            roles.append(file.stem)
    private.write(config, text.encode())
    os.kill(server.pid, signal.SIGHUP)
    return roles


def _known(file: Path) -> Context | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Context)
    except (OSError, *UNREADABLE):
        return None
