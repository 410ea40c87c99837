"""The key of `nebula login`, in a file that only its owner can read: one for each gateway."""

import os
import re
from pathlib import Path

from nebula.store import private

_ELSE = re.compile(r"[^A-Za-z0-9.-]+")


def path_of(gateway: str) -> Path:
    """Return the file with the key for the gateway at a URL."""
    above = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    name = _ELSE.sub("_", gateway.partition("://")[2].rstrip("/")).strip("_.") or "gateway"
    return Path(above) / "nebula" / "keys" / f"{name}.key"


def keep(path: Path, text: str) -> None:
    """Write a key; a reader finds the previous one or this one. Raise OSError."""
    private.write(path, f"{text}\n".encode())


def kept(path: Path) -> str:
    """Return the key in a file; "" if there is none. Raise OSError."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
