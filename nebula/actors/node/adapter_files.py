"""Recognises the folder of an adapter, checks it, and computes its digest. Pure.

The files are those that vLLM 0.32 reads (lora/peft_helper.py and lora/lora_model.py there), in its
order of preference.
"""

import hashlib
import json
from collections.abc import Collection, Mapping

from nebula.events import memory
from nebula.events.reading import UNREADABLE

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")

LARGEST = 1 << 20
"""Largest configuration of an adapter, in bytes: it is read as a whole."""


def chosen(names: Collection[str]) -> tuple[str, ...]:
    """Return which of these files of an adapter's folder an engine reads."""
    weights = [name for name in WEIGHTS if name in names]
    return (CONFIG, *weights[:1])


def digest(contents: Mapping[str, str]) -> str:
    """Return the digest of a version: over its files' names and their SHA-256 digests."""
    whole = hashlib.sha256()
    for name in sorted(contents):
        whole.update(f"{name} {contents[name]}\n".encode())
    return whole.hexdigest()


def is_model(names: Collection[str]) -> bool:
    """Return whether a folder with these files holds a model instead of an adapter."""
    return "config.json" in names and CONFIG not in names


def problem(source: str, names: Collection[str] | None) -> str:
    """Return why a folder is not an adapter's, else "". `names`: its files; None: no folder."""
    if names is None:
        return f"no adapter found in {source}: there is no such folder on this node"
    if CONFIG not in names:
        if is_model(names):
            return f"{source} holds a model, not an adapter: it has no {CONFIG}"
        return f"no adapter found in {source}: it has no {CONFIG}"
    if not any(name in names for name in WEIGHTS):
        return f"no adapter found in {source}: it has no {WEIGHTS[0]}"
    return ""


def config_problem(source: str, config: bytes) -> str:
    """Return why an engine can't read an adapter's configuration; "" if it may."""
    if len(config) > LARGEST:
        return f"the {CONFIG} in {source} is larger than {memory.text(LARGEST)}"
    try:
        fields = json.loads(config)
    except UNREADABLE as error:
        return f"the {CONFIG} in {source} is not valid JSON: {error}"
    return "" if isinstance(fields, dict) else f"the {CONFIG} in {source} is not a JSON object"
