"""Reads and validates a hub's list of a source's files, and selects what an engine needs. Pure.

A listing is untrusted. Its names become paths and sizes on this disk, so it is accepted as a whole
or not at all.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec
from msgspec import Struct

from nebula.actors.node.weights.provision import Files
from nebula.events.reading import UNREADABLE

MAX_BYTES = 16 * 1024 * 1024
"""Largest listing in bytes: about 60,000 files."""

MAX_FILES = 10_000
"""Files of a source that an engine may need, at most."""

MAX_FILE = 50_000_000_000
"""Largest file that the hub sends over plain HTTP, in bytes; larger ones need its own protocol."""

MAX_SIZE = 2**50
"""Largest accepted size of a file, in bytes."""

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_BESIDE = (
    *(".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".onnx", ".onnx_data", ".ot"),
    *(".pb", ".tflite"),
)
"""Weights in formats that engines do not load from a folder."""

_PICKLED = frozenset({".bin", ".pt", ".pth"})


class Malformed(Exception):
    """The hub's list of files is not valid; the text says why."""


class Unlisted(Exception):
    """The hub does not list what is needed to fetch and check each file."""


class File(Struct, frozen=True):
    """One file of a source: its size, and the name of its blob, which is a hash of its bytes.

    `sha256`: whether that hash is the SHA-256 of the bytes; otherwise it is git's SHA-1.
    """

    path: str
    size: int
    etag: str
    sha256: bool


class Listing(Struct, frozen=True):
    """The files of a source at one commit.

    `left`: paths of further files that an engine needs and that the hub does not send over plain
    HTTP.
    """

    files: Files
    commit: str
    content: tuple[File, ...]
    left: tuple[str, ...] = ()


class _Large(Struct):
    sha256: str
    size: int


class _Sibling(Struct):
    rfilename: str
    size: int | None = None
    blobId: str | None = None
    lfs: _Large | None = None


class _Info(Struct):
    sha: str | None = None
    siblings: list[_Sibling] | None = None


_infos = msgspec.json.Decoder(_Info)


def read(files: Files, body: bytes, hub: str) -> Listing:
    """Return the listing in a hub's answer to `/api/models/…?blobs=true`; `hub`: its name.

    Source: the documentation of huggingface_hub, `HfApi.model_info`. Raise Malformed, Unlisted.
    """
    try:
        info = _infos.decode(body)
    except UNREADABLE as error:
        raise Malformed(f"{hub} does not answer with a list of files: {error}") from error
    siblings = info.siblings or []
    if info.sha and not _COMMIT.fullmatch(info.sha):
        raise Malformed(f"{hub} calls {info.sha[:80]!r} a commit of {files.source}")
    found = [_file(sibling) for sibling in siblings]
    reason = next(filter(None, (problem(file) for file in found)), "") or _clash(found)
    if reason:
        raise Malformed(f"{hub} lists of {files.source} {reason}")
    if not info.sha or not all(map(_told, siblings)):
        raise Unlisted(f"{hub} does not list sizes and hashes of {files.source}")
    chosen = needed([file.path for file in found])
    if len(chosen) > MAX_FILES:
        raise Malformed(
            f"{hub} lists of {files.source} {len(chosen)} files that an engine needs, "
            f"more than {MAX_FILES}"
        )
    content = tuple(file for file in found if file.path in chosen and file.size <= MAX_FILE)
    left = tuple(file.path for file in found if file.path in chosen and file.size > MAX_FILE)
    return Listing(files, info.sha, content, left)


def problem(file: File) -> str:
    """Return why a listed file can't be stored here; "" if it can. An etag may be empty."""
    shown = f"{file.path[:80]!r}"
    path = PurePosixPath(file.path)
    try:
        parts = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        return f"{shown}, which is not a path"
    if (
        not parts
        or str(path) != file.path
        or path.is_absolute()
        or ".." in path.parts
        or "\0" in file.path
    ):
        return f"{shown}, which is not a path within it"
    if max(parts) > 255 or sum(parts) + len(parts) > 1024:
        return f"{shown}, a name that is too long"
    if not 0 <= file.size <= MAX_SIZE:
        return f"{shown} with {str(file.size)[:40]} bytes"
    if file.etag and not (_SHA256 if file.sha256 else _SHA1).fullmatch(file.etag):
        return f"{shown} with the hash {file.etag[:80]!r}, which is not one"
    return ""


def needed(paths: Iterable[str]) -> frozenset[str]:
    """Return the files that an engine needs, without duplicates of the weights in other formats."""
    paths = list(paths)
    safe = {str(PurePosixPath(path).parent) for path in paths if path.endswith(".safetensors")}
    return frozenset(
        path
        for path in paths
        if not path.startswith("original/")
        and PurePosixPath(path).suffix not in _BESIDE
        and not (PurePosixPath(path).suffix in _PICKLED and str(PurePosixPath(path).parent) in safe)
    )


def _file(sibling: _Sibling) -> File:
    large = sibling.lfs
    if large is not None:
        return File(sibling.rfilename, large.size, large.sha256, True)
    return File(sibling.rfilename, sibling.size or 0, sibling.blobId or "", False)


def _told(sibling: _Sibling) -> bool:
    if sibling.lfs is not None:
        return bool(sibling.lfs.sha256)
    return bool(sibling.blobId) and sibling.size is not None


def _clash(found: list[File]) -> str:
    """Return which parts of a listing contradict each other; "" if none do."""
    paths: set[str] = set()
    for file in found:
        if file.path in paths:
            return f"{file.path[:80]!r} twice"
        paths.add(file.path)
    for file in found:
        inside = next((str(up) for up in PurePosixPath(file.path).parents if str(up) in paths), "")
        if inside:
            return f"{inside[:80]!r} as a file and as a folder"
    return ""
