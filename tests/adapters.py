"""Writes folders that a node takes for adapters; only the simulated engine is content with them."""

import json
from pathlib import Path


def trained(path: Path, **config: object) -> str:
    """Write an adapter's folder, or write it anew in place, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"r": 8, **config}))
    (path / "adapter_model.safetensors").write_bytes(b"")
    return str(path)
