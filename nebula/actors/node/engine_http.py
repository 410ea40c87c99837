"""The few HTTP calls a node makes to an engine of its own: health, version, adapters."""

import httpx
import msgspec

from nebula.actors.engine import liveness
from nebula.actors.engine.load import read_load
from nebula.actors.engine.progress import EngineProgress


class EngineRefused(Exception):
    """The engine answered, and would not; the text is its own."""


class EngineSilent(Exception):
    """The engine did not answer (any more)."""


class EngineClient:
    """HTTP to one engine on this machine."""

    def __init__(self, port: int) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=httpx.Timeout(5.0), trust_env=False
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

    async def version(self) -> str:
        """Give the engine's version; empty where it tells none."""
        try:
            answer = await self._http.get("/version")
            return str(answer.json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""

    async def progress(self) -> EngineProgress | None:
        """Return what the engine tells of its progress; None where it knows nothing of that.

        Raises EngineSilent where its server does not answer at all.
        """
        try:
            answer = await self._http.get(liveness.PATH)
            return msgspec.json.decode(answer.content, type=EngineProgress)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        except (httpx.HTTPError, RuntimeError) as error:  # the latter of a client that is closed
            raise EngineSilent(str(error) or type(error).__name__) from error

    async def requests(self) -> int:
        """Give how many requests the engine has; 0 where it tells none, or nothing any more."""
        try:
            load = read_load((await self._http.get("/metrics")).content)
        except (httpx.HTTPError, RuntimeError):  # the latter of a client that is closed by now
            return 0
        return load.running + load.waiting

    async def load_adapter(self, name: str, source: str) -> None:
        """Load a LoRA adapter. Raises EngineRefused with the engine's reason, EngineSilent."""
        try:
            await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": source})
        except EngineRefused as error:
            if "already been loaded" not in str(error):
                raise

    async def unload_adapter(self, name: str) -> None:
        """Let go of a LoRA adapter. Raises EngineRefused, EngineSilent."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def _post(self, path: str, body: dict[str, str]) -> None:
        try:
            # Adapters may come from a hub: loading one takes as long as its download.
            answer = await self._http.post(path, json=body, timeout=600.0)
        except httpx.HTTPError as error:
            raise EngineSilent(str(error) or type(error).__name__) from error
        if answer.status_code >= 400:
            raise EngineRefused(_message(answer))


def _message(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return str(body.get("error", body).get("message", answer.text))[:1000]
    except (ValueError, AttributeError):
        return f"HTTP {answer.status_code}: {answer.text}"[:1000]
