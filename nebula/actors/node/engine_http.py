"""The HTTP calls of a node to its engines: health, version, adapters."""

import asyncio
from pathlib import Path

import httpx
import msgspec

from nebula.actors.engine import abilities, adapters, liveness
from nebula.actors.engine.abilities import Abilities
from nebula.actors.engine.adapters import Loaded, WantedAdapter
from nebula.actors.engine.load import read_load
from nebula.actors.engine.progress import EngineProgress
from nebula.events.reading import UNREADABLE
from nebula.metrics.merging import LARGEST

LOAD_LIMIT = 600.0
"""Seconds that an engine may take to load an adapter."""

SHORT = 5.0
"""Seconds that an engine gets to list its adapters."""

OLD_BRIDGE = (
    "its engine was started by an older Nebula, which can't keep versions of an adapter apart: "
    "start it anew: scale its model to 0 and back, or drain its node"
)


class EngineRefused(Exception):
    """The engine refused; the text is its own."""


class EngineSilent(Exception):
    """The engine did not answer, or no longer answers."""


class EngineClient:
    """HTTP to one engine on this machine: on its Unix `socket`, or else on its TCP port.

    `key`: what an engine on a port demands.
    """

    def __init__(self, port: int, socket: Path | None = None, key: str = "") -> None:
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            transport=None if socket is None else httpx.AsyncHTTPTransport(uds=str(socket)),
            headers={"authorization": f"Bearer {key}"} if key else None,
            timeout=httpx.Timeout(5.0),
            trust_env=False,
        )

    async def close(self) -> None:
        """Drop the connections."""
        await self._http.aclose()

    async def healthy(self) -> bool:
        """Whether the engine takes requests now."""
        try:
            return (await self._http.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def answers_as(self, whose: str) -> bool:
        """Whether what answers there is this engine: `whose` as from `progress.whose`.

        Another process may have taken the port before the engine did.
        """
        try:
            progress = await self.progress()
        except EngineSilent:
            return False
        return progress is not None and progress.whose == whose

    async def version(self) -> str:
        """Return the engine's version; empty if it reports none."""
        try:
            answer = await self._http.get("/version")
            return str(answer.json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""

    async def abilities(self) -> Abilities:
        """Return what the engine's model can do; nothing if the engine does not report it."""
        try:
            answer = await self._http.get(abilities.PATH)
            return msgspec.json.decode(answer.content, type=Abilities)
        except (httpx.HTTPError, RuntimeError, *UNREADABLE):  # RuntimeError from a closed client
            return Abilities()

    async def progress(self) -> EngineProgress | None:
        """Return the engine's report of its progress; None if it does not support that.

        Raise EngineSilent if its server does not answer at all.
        """
        try:
            answer = await self._http.get(liveness.PATH)
            return msgspec.json.decode(answer.content, type=EngineProgress)
        except UNREADABLE:
            return None
        except (httpx.HTTPError, RuntimeError) as error:  # the latter from a closed client
            raise EngineSilent(str(error) or type(error).__name__) from error

    async def requests(self) -> int:
        """Return how many requests the engine has; 0 if it does not say, or no longer answers."""
        try:
            load = read_load((await self._http.get("/metrics")).content)
        except (httpx.HTTPError, RuntimeError):  # the latter from a closed client by now
            return 0
        return load.running + load.waiting

    async def metrics(self, patience: float) -> bytes | None:
        """Return the engine's metrics in Prometheus's text format; None if it does not tell them.

        It gets `patience` seconds.
        """
        try:
            async with asyncio.timeout(patience), self._http.stream("GET", "/metrics") as answer:
                text = b""
                async for part in answer.aiter_bytes():
                    text += part
                    if len(text) > LARGEST:
                        return None
                return text if answer.status_code == 200 else None
        except (httpx.HTTPError, RuntimeError, TimeoutError):  # RuntimeError: a closed client
            return None

    async def load_adapter(self, name: str, digest: str, path: str) -> None:
        """Load a version of a LoRA adapter beside those that it has.

        Raise EngineRefused with the engine's reason, or EngineSilent.
        """
        await self._adapters("POST", WantedAdapter(name, digest, path))

    async def unload_adapter(self, name: str, digest: str) -> None:
        """Unload a version of a LoRA adapter, or all. Raise EngineRefused, EngineSilent."""
        await self._adapters("DELETE", WantedAdapter(name, digest))

    async def versions(self) -> tuple[str, ...]:
        """Return the digests whose files it needs. Raise EngineSilent, EngineRefused."""
        answer = await self._adapters("GET", None)
        try:
            return msgspec.json.decode(answer, type=Loaded).digests
        except UNREADABLE as error:
            raise EngineRefused(str(error)) from error

    async def _adapters(self, method: str, wanted: WantedAdapter | None) -> bytes:
        content = b"" if wanted is None else msgspec.json.encode(wanted)
        try:
            answer = await self._http.request(
                method, adapters.PATH, content=content, timeout=LOAD_LIMIT if wanted else SHORT
            )
        except (httpx.HTTPError, RuntimeError) as error:  # the latter from a closed client
            raise EngineSilent(str(error) or type(error).__name__) from error
        if answer.status_code == 404 and b"Error" not in answer.content:
            raise EngineRefused(OLD_BRIDGE)
        if answer.status_code >= 400:
            raise EngineRefused(_message(answer))
        return answer.content


def _message(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return str(body.get("error", body).get("message", answer.text))[:1000]
    except (ValueError, AttributeError):
        return f"HTTP {answer.status_code}: {answer.text}"[:1000]
