"""The adapters that a simulated engine has, and which it refuses in vLLM's words.

As of vLLM's vllm/entrypoints/openai/models/serving.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nebula.engines.simulated_http import Refusal

log = logging.getLogger("simulated")


class LoadAdapter(msgspec.Struct, frozen=True):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapter(msgspec.Struct, frozen=True):
    """POST /v1/unload_lora_adapter."""

    lora_name: str


class Adapters:
    """Adapters by name; `paths` are their folders. `names` are the model's own."""

    def __init__(self, names: Sequence[str], max_rank: int) -> None:
        self.paths: dict[str, str] = {}
        self._names = names
        self._max_rank = max_rank

    def load(self, request: LoadAdapter) -> str:
        """Take an adapter and say so. Raises Refusal."""
        name, path = request.lora_name, request.lora_path
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
            raise Refusal(400, text, "InvalidUserInput")
        if name in self._names:
            text = f"The lora adapter '{name}' conflicts with a served base model."
            raise Refusal(400, text, "InvalidUserInput")
        if name in self.paths and not request.load_inplace:
            text = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
            raise Refusal(400, text, "InvalidUserInput")
        _check(name, Path(path), self._max_rank)
        self.paths[name] = path
        log.info("Loaded new LoRA adapter: name '%s', path '%s'", name, path)
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, request: UnloadAdapter) -> str:
        """Let go of an adapter and say so. Raises Refusal."""
        name = request.lora_name
        if name not in self.paths:
            raise Refusal(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.paths[name]
        log.info("Removed LoRA adapter: name '%s'", name)
        return f"Success: LoRA adapter '{name}' removed successfully."


def _check(name: str, path: Path, limit: int) -> None:
    """Refuse a folder that is missing, or an adapter of a higher rank than the engine takes."""
    if not path.is_dir():
        text = f"Loading lora {name} failed: No adapter found for {path}"
        raise Refusal(404, text, "NotFoundError")
    try:
        rank = int(json.loads((path / "adapter_config.json").read_bytes())["r"])
    except (OSError, ValueError, KeyError):
        return  # not PEFT's; a rehearsal may do with an empty folder, where vLLM would not
    if rank > limit:
        text = f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank"
        raise Refusal(500, f"{text} {limit}.", "InternalServerError")
