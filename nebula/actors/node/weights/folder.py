"""Reads from a model's folder on this disk how much memory it needs, and whether it is whole."""

from pathlib import Path

import msgspec

from nebula.actors.node.weights import measuring
from nebula.actors.node.weights.measuring import Config, Figures, Unmeasurable

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
_MAX_JSON = 64 * 1024 * 1024


def measure(folder: Path) -> Figures:
    """Measure the model in a folder. Raises Unmeasurable."""
    try:
        if not folder.is_dir():
            raise Unmeasurable(f"{folder} is no folder of a model")
        config = read_json(folder / CONFIG)
        if config is None:
            raise Unmeasurable("it has no config.json")
        names = _names(folder)
        chosen = measuring.weight_files(names, read_json(folder / INDEX))
        size = sum(_size(folder / name) for name in chosen)
    except OSError as error:
        raise Unmeasurable(f"its files can't be read: {error}") from error
    return measuring.figures(size, config)


def whole(folder: Path) -> bool:
    """Say whether a folder has all that its config and index name, as far as those tell."""
    try:
        names = _names(folder)
        index = read_json(folder / INDEX)
    except (OSError, Unmeasurable):
        return False
    return (
        CONFIG in names
        and not measuring.missing_files(names, index)
        and bool(measuring.weight_files(names, index))
    )


def size(folder: Path) -> int:
    """Give the bytes of all files in a folder, those that links lead to."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_json(path: Path) -> Config | None:
    """Read an object from a JSON file; None where there is none. Raises Unmeasurable."""
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON:
        raise Unmeasurable(f"{path.name} is larger than {_MAX_JSON} bytes")
    return decode(path.name, path.read_bytes())


def decode(name: str, data: bytes) -> Config:
    """Read an object from JSON. Raises Unmeasurable."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unmeasurable(f"{name} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise Unmeasurable(f"{name} holds no object")
    return found


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


def _size(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size
    with path.open("rb") as file:
        return measuring.tensor_bytes(file.read(measuring.header_size(file.read(8))))
