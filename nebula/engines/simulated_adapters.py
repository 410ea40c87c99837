"""The adapters of a simulated engine, which refuses some in vLLM's words.

Source: vllm/entrypoints/openai/models/serving.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from nebula.engines.simulated_http import Refusal

log = logging.getLogger("simulated")


_COMPUTED = 4096
"""Number of prompts in the prefix cache."""


class LoadAdapter(msgspec.Struct, frozen=True):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapter(msgspec.Struct, frozen=True):
    """POST /v1/unload_lora_adapter."""

    lora_name: str


class Adapter:
    """One adapter that was loaded: its number, and the folder that it is read from."""

    def __init__(self, number: int, name: str, path: str) -> None:
        self.number = number
        self.name = name
        self.path = path


class Adapters:
    """Adapters by name; `names` are the model's own, `slots` those that are kept in memory.

    As in vLLM's cache of adapters, an adapter that was evicted from its slot is read from its
    folder again when a request needs it. As in its prefix cache, what was computed under a name and
    path before is reused, whatever the folder contains by now. Running requests know their adapter
    by its number, as in vLLM: unloading a name does not end them.
    """

    def __init__(self, names: Sequence[str], max_rank: int, slots: int = 1) -> None:
        self.loaded: dict[str, Adapter] = {}
        self._names = names
        self._max_rank = max_rank
        self._most = slots
        self._count = 0
        self._slots: dict[int, str] = {}
        self._computed: dict[tuple[str, str, str], str] = {}

    def load(self, request: LoadAdapter) -> str:
        """Load an adapter and return vLLM's message. Raise Refusal."""
        name, path = request.lora_name, request.lora_path
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
            raise Refusal(400, text, "InvalidUserInput")
        if name in self._names:
            text = f"The lora adapter '{name}' conflicts with a served base model."
            raise Refusal(400, text, "InvalidUserInput")
        known = self.loaded.get(name)
        if known is not None and not request.load_inplace:
            text = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
            raise Refusal(400, text, "InvalidUserInput")
        _check(name, Path(path), self._max_rank)
        if known is None:
            self._count += 1
        adapter = Adapter(self._count if known is None else known.number, name, path)
        self._slots.pop(adapter.number, None)
        self._weights(adapter)
        self.loaded[name] = adapter
        log.info("Loaded new LoRA adapter: name '%s', path '%s'", name, path)
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, request: UnloadAdapter) -> str:
        """Unload an adapter and return vLLM's message. Raise Refusal."""
        name = request.lora_name
        if name not in self.loaded:
            raise Refusal(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.loaded[name]
        log.info("Removed LoRA adapter: name '%s'", name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def says(self, adapter: Adapter, prompt: str) -> str:
        """Return what an adapter adds to an answer: its own text.

        It is `OLD+NEW` where the prompt was computed with other weights under the same name and
        path. Raise Refusal if its folder is gone.
        """
        now = self._weights(adapter)
        before = self._computed.setdefault((adapter.name, adapter.path, prompt), now)
        if len(self._computed) > _COMPUTED:
            del self._computed[next(iter(self._computed))]
        return now if before == now else f"{before}+{now}"

    def _weights(self, adapter: Adapter) -> str:
        """Return the text of an adapter in a slot, reading it if it has no slot."""
        says = self._slots.pop(adapter.number, None)
        if says is None:
            _check(adapter.name, Path(adapter.path), self._max_rank)
            says = _says(adapter)
        self._slots[adapter.number] = says  # the last one was used last
        while len(self._slots) > self._most:
            del self._slots[next(iter(self._slots))]
        return says


def _says(adapter: Adapter) -> str:
    """Return an adapter's text: "says" in its configuration, else its name without a version."""
    name = unquote(adapter.name.rpartition("@")[0] or adapter.name)
    try:
        said = json.loads((Path(adapter.path) / "adapter_config.json").read_bytes()).get("says")
    except (OSError, ValueError, AttributeError):
        return name
    return str(said) if said else name


def _check(name: str, path: Path, limit: int) -> None:
    """Refuse a folder that is missing, or an adapter of a higher rank than the engine takes."""
    if not path.is_dir():
        text = f"Loading lora {name} failed: No adapter found for {path}"
        raise Refusal(404, text, "NotFoundError")
    try:
        rank = int(json.loads((path / "adapter_config.json").read_bytes())["r"])
    except (OSError, ValueError, KeyError):
        return  # not PEFT's; a rehearsal may use an empty folder, which vLLM would refuse
    if rank > limit:
        text = f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank"
        raise Refusal(500, f"{text} {limit}.", "InternalServerError")
