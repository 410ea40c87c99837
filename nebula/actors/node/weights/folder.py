"""Reads from a model's folder on this disk how much memory it needs, and whether it is complete."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from nebula.actors.node.weights import measuring, model_files
from nebula.actors.node.weights.measuring import Config, Figures, Unmeasurable
from nebula.events.reading import UNREADABLE

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

CONFIG_BYTES = 4 * 1024 * 1024
"""Largest config.json, in bytes."""

INDEX_BYTES = 32 * 1024 * 1024
"""Largest index in bytes: those of the largest models have half of that."""

HEADER_BYTES = 8 * 1024 * 1024
"""Largest safetensors header whose tensors are counted one by one, in bytes."""

MAX_ENTRIES = 100_000
"""Entries of a model's folder, at most."""


class _Index(Struct):
    weight_map: dict[str, str] = {}


_indexes = msgspec.json.Decoder(_Index)


def measure(folder: Path) -> Figures:
    """Return the measurements of the model in a folder. Raise Unmeasurable."""
    try:
        if not folder.is_dir():
            raise Unmeasurable(f"{folder} is not the folder of a model")
        data = _read(folder / CONFIG, CONFIG_BYTES)
        if data is None:
            raise Unmeasurable("it has no config.json")
        config = decode(CONFIG, data)
        names = _names(folder)
        chosen = measuring.weight_files(names, _index(folder))
        size = sum(_size(folder / name) for name in chosen)
    except OSError as error:
        raise Unmeasurable(f"its files can't be read: {error}") from error
    return measuring.figures(size, config)


def unusable(path: Path, *, described: bool = False) -> str:
    """Return why no model can be served from a path of this disk; empty if one may be.

    `described`: an option of its engine says where the description of the model is.
    """
    try:
        names = _names(path) if path.is_dir() else None
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no {path} on this node"
    except OSError:
        return ""
    return "" if names is None else model_files.problem(str(path), names, described=described)


def whole(folder: Path) -> bool:
    """Return whether a folder has all files that its config and index name."""
    try:
        names = _names(folder)
        index = _index(folder)
    except (OSError, Unmeasurable):
        return False
    return (
        CONFIG in names
        and not measuring.missing_files(names, index)
        and bool(measuring.weight_files(names, index))
    )


def size(folder: Path) -> int:
    """Return the size of all files in a folder in bytes, following links to files.

    Raise OSError, also for more than 100,000 files and folders.
    """
    return sum(entry.stat().st_size for entry in _entries(folder, deep=True) if _is_file(entry))


def decode(name: str, data: bytes) -> Config:
    """Return a JSON object. Raise Unmeasurable."""
    try:
        found = msgspec.json.decode(data)
    except UNREADABLE as error:
        raise Unmeasurable(f"{name} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise Unmeasurable(f"{name} is not a JSON object")
    return found


def _index(folder: Path) -> Config | None:
    """Return the content of an index; None if there is no index. Raise Unmeasurable."""
    data = _read(folder / INDEX, INDEX_BYTES)
    if data is None:
        return None
    try:
        return {"weight_map": _indexes.decode(data).weight_map}
    except UNREADABLE as error:
        raise Unmeasurable(f"{INDEX} can't be read: {error}") from error


def _read(path: Path, most: int) -> bytes | None:
    """Return a file's bytes; None if there is no file. Raise Unmeasurable for more than `most`."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unmeasurable(f"{path.name} is larger than {most} bytes")
    return data


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_file(entry)]


def _entries(folder: Path, *, deep: bool = False) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, `deep` with those of its subfolders, without following links.

    They are yielded one at a time, because a list of millions would take memory before it is
    refused.
    """
    left, seen = [str(folder)], 0
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    raise OSError(f"{folder} has more than {MAX_ENTRIES} files and folders")
                if deep and entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                yield entry


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _size(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size
    with path.open("rb") as file:
        header = measuring.header_size(file.read(8))
        if header <= HEADER_BYTES:
            return measuring.tensor_bytes(file.read(header))
    # The format has no gaps: everything after the header is tensors.
    return max(0, path.stat().st_size - 8 - header)
