"""The versions of adapters in one engine: loaded side by side, and unloaded when unused.

Its node requests them on the engine's own port. A version is unloaded only once the requests that
use it have ended and routers know that it is no longer wanted.
"""

import asyncio
import logging
from collections import Counter

import msgspec
from msgspec import Struct

from nebula.actors.engine.exchange import App, Message, Receive, Scope, Send, http_scope
from nebula.actors.engine.replying import reply
from nebula.actors.engine.versions import Version, internal
from nebula.events.reading import UNREADABLE

log = logging.getLogger(__name__)

PATH = "/nebula/adapters"
"""Path on an engine's own port for loading, unloading and listing versions of adapters."""

LINGER = 5.0
"""Seconds for which an unwanted version stays, because routers may learn of it late."""

_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
_LARGEST = 1 << 20


class WantedAdapter(Struct, frozen=True):
    """A node's request to load a version from the folder `path`, or to unload it.

    Without a `digest`, all versions of the adapter are unloaded.
    """

    name: str
    digest: str = ""
    path: str = ""


class Loaded(Struct, frozen=True):
    """The digests of all versions that an engine has, or whose files it may still need."""

    digests: tuple[str, ...]


class Adapters:
    """The versions of adapters in one engine. `app` is the engine's; `linger` as LINGER."""

    def __init__(self, app: App, linger: float = LINGER) -> None:
        self._app = app
        self._linger = linger
        self._state: Scope = {}
        self._versions: dict[str, dict[str, Version]] = {}
        self._leaving: dict[str, Version] = {}
        self._users: Counter[str] = Counter()
        self._work: set[asyncio.Task[None]] = set()

    def knows(self, state: Scope) -> None:
        """Store what the scopes of the engine's app contain."""
        self._state = state

    def find(self, name: str, digest: str) -> Version | None:
        """Return a version of an adapter ("": the last one loaded); None if it is not loaded."""
        versions = self._versions.get(name)
        if not digest:
            return next(reversed(versions.values()), None) if versions else None
        found = versions.get(digest) if versions else None
        return found or self._leaving.get(internal(name, digest))

    def has(self, name: str) -> bool:
        """Return whether any version of an adapter is loaded."""
        return bool(self._versions.get(name))

    def came(self, version: Version) -> None:
        """Count a request that uses a version."""
        self._users[version.own] += 1

    def left(self, version: Version) -> None:
        """Count that a request has ended."""
        self._users[version.own] -= 1
        if self._users[version.own] <= 0:
            del self._users[version.own]

    def close(self) -> None:
        """Cancel all waits."""
        for task in self._work:
            task.cancel()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request of the engine's node."""
        method = scope["method"]
        if method == "GET":
            await reply(send, msgspec.json.encode(self.loaded()))
            return
        try:
            wanted = msgspec.json.decode(await _read(receive), type=WantedAdapter)
        except UNREADABLE as error:
            await reply(send, msgspec.json.encode({"message": str(error)}), 400)
            return
        if method == "DELETE":
            self.release(wanted.name, wanted.digest)
            await reply(send, b"{}")
            return
        status, body = await self.load(wanted)
        await reply(send, body, status)

    def loaded(self) -> Loaded:
        """Return the versions that the engine has."""
        kept = [each for versions in self._versions.values() for each in versions]
        return Loaded((*kept, *[each.digest for each in self._leaving.values()]))

    async def load(self, wanted: WantedAdapter) -> tuple[int, bytes]:
        """Load a version beside the others; return the engine's status and message."""
        version = Version(wanted.name, internal(wanted.name, wanted.digest), wanted.digest)
        versions = self._versions.setdefault(wanted.name, {})
        if wanted.digest not in versions and self._leaving.pop(version.own, None) is None:
            body = {"lora_name": version.own, "lora_path": wanted.path}
            status, said = await self._post(_LOAD, body)
            if status >= 400:
                return status, version.answers(said, status)
        versions.pop(wanted.digest, None)  # the newest comes last
        versions[wanted.digest] = version
        return 200, b"{}"

    def release(self, name: str, digest: str) -> None:
        """Unload a version, or all, once no request uses it."""
        versions = self._versions.get(name, {})
        for each in [digest] if digest else list(versions):
            version = versions.pop(each, None)
            if version is not None:
                self._leaving[version.own] = version
                task = asyncio.create_task(self._take_off(version))
                self._work.add(task)
                task.add_done_callback(self._work.discard)

    async def _take_off(self, version: Version) -> None:
        while True:
            await asyncio.sleep(self._linger)
            if self._users[version.own] <= 0:
                break
        if self._leaving.get(version.own) is version:  # otherwise it was requested again
            del self._leaving[version.own]
            status, said = await self._post(_UNLOAD, {"lora_name": version.own})
            if status >= 400:
                log.warning("%s stays: %s", version.own, said.decode(errors="replace"))

    async def _post(self, path: str, body: dict[str, str]) -> tuple[int, bytes]:
        content = msgspec.json.encode(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        scope = {**http_scope("POST", path, headers), **self._state}
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        asked = False
        status, parts = 500, list[bytes]()

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # this client never disconnects
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts.append(bytes(message.get("body", b"")))

        try:
            await self._app(scope, receive, send)
        except Exception as error:
            log.exception("the engine failed at %s", path)
            return 500, msgspec.json.encode({"message": f"{type(error).__name__}: {error}"})
        return status, b"".join(parts)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while len(body) <= _LARGEST:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    return bytes(body)
