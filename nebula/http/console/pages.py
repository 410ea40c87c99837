"""The console's files over HTTP: one shell for all of its pages, and what the shell loads.

The shell and its files hold nothing of a cluster: what the pages show they ask for with the
reader's key. So anyone may load them, also through a link on another site (`guard.py`).
"""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

from litestar import Request, Response, get
from msgspec import Struct

from nebula.http.errors import ApiError
from nebula.http.starting import WITHOUT_LOG

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The pages run only their own scripts, ask only their own server, and can't be framed."""

_HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "svg": "image/svg+xml",
}
_SHELL = "index.html"


class ConsoleFile(Struct, frozen=True):
    """A file as it is sent."""

    content: bytes
    media_type: str
    tag: str


@cache
def files() -> dict[str, ConsoleFile]:
    """Return all files of the console, by their paths."""
    found: dict[str, ConsoleFile] = {}
    folders = [("", resources.files(__package__) / "static")]
    while folders:
        above, folder = folders.pop()
        for entry in folder.iterdir():
            name = f"{above}{entry.name}"
            if entry.is_dir():
                folders.append((f"{name}/", entry))
            elif (kind := _TYPES.get(name.rpartition(".")[2])) is not None:
                found[name] = _file(entry.read_bytes(), kind)
    return found


def _file(content: bytes, media_type: str) -> ConsoleFile:
    return ConsoleFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


@cache
def shell(root: str) -> ConsoleFile:
    """Return the page that all addresses of the console show; `root`: as a proxy shows it."""
    page = files()[_SHELL]
    return _file(page.content.replace(b"{root}", root.encode()), page.media_type)


@get(["/console", "/console/{page:path}"], opt=WITHOUT_LOG)
async def show_console(request: Request[Any, Any, Any], root: str) -> Response[bytes]:
    """Show the web console."""
    return _answer(request, shell(root))


@get("/console/static/{name:path}", opt=WITHOUT_LOG)
async def show_file(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    """Return a file of the web console."""
    found = files().get(name.removeprefix("/"))
    if found is None or name == f"/{_SHELL}":
        raise ApiError(404, f"the console has no file {name[:200]!r}", code="unknown_url")
    return _answer(request, found)


def _answer(request: Request[Any, Any, Any], file: ConsoleFile) -> Response[bytes]:
    headers = {**_HEADERS, "etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
