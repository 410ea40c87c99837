"""The hub that models come from, and its cache on this disk, in the layout that engines know.

The layout is the one that the hub's own library documents: `blobs/<etag>` holds a file's bytes,
`snapshots/<commit>/<path>` links to them, `refs/<revision>` names a commit.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path, PurePosixPath

import httpx
import huggingface_hub
from huggingface_hub import constants, errors
from msgspec import Struct

from nebula.actors.node.weights import folder, measuring
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from nebula.actors.node.weights.provision import Files, is_hub_id
from nebula.events.values import Weights

log = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds that the hub gets to begin an answer: where it is cut off, the cache has to do."""

MAX_LISTED = 1_000
"""Sources that a node tells of when it registers: an event has a size."""

MAX_FILE = 50_000_000_000
"""Bytes of a file that the hub gives over plain HTTP; larger ones need its own protocol."""

_COMMIT = re.compile(r"[0-9a-f]{7,64}")

_BESIDE = (
    *(".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".onnx", ".onnx_data", ".ot"),
    *(".pb", ".tflite"),
)
"""Weights in formats that engines don't take from a folder."""

_PICKLED = frozenset({".bin", ".pt", ".pth"})


class Unreachable(Exception):
    """The hub does not answer, or not as one; trying again may help."""


class Refused(Exception):
    """The hub has no such files, or not for us; trying again does not help."""


class Unlisted(Exception):
    """The hub does not tell of each file what it needs to be fetched and checked."""


class File(Struct, frozen=True):
    """One file of a source: its bytes, and the name of its blob, which is a hash of them.

    `sha256`: whether that hash is the SHA-256 of the bytes; else it is git's, of SHA-1.
    """

    path: str
    size: int
    etag: str
    sha256: bool


class Listing(Struct, frozen=True):
    """The files of a source at one commit."""

    files: Files
    commit: str
    content: tuple[File, ...]


class Hub:
    """One hub, as the environment names it (HF_ENDPOINT, HF_TOKEN), and one cache."""

    def __init__(self, cache: Path | None = None, endpoint: str | None = None) -> None:
        self.chosen = cache is not None
        """Whether somebody has named the cache: else it is where engines look by themselves."""
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        self.endpoint = endpoint or constants.ENDPOINT

    @property
    def offline(self) -> bool:
        """Whether this machine was told not to ask the hub (HF_HUB_OFFLINE)."""
        return bool(constants.HF_HUB_OFFLINE)

    def listing(self, files: Files) -> Listing:
        """Ask for what an engine needs of a source. Raises Unreachable, Refused, Unlisted."""
        if self.offline:
            raise Unreachable("this node was told not to ask the hub (HF_HUB_OFFLINE)")
        api = huggingface_hub.HfApi(endpoint=self.endpoint)
        try:
            info = api.model_info(
                files.source,
                revision=files.revision or None,
                files_metadata=True,
                timeout=TIMEOUT,
            )
        except errors.GatedRepoError as error:
            raise Refused(
                f"{self.endpoint} gives {files.source} only to whom its owner has let in: "
                "give this node a token of such an account (HF_TOKEN)"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise Refused(
                f"{self.endpoint} has no {files.source}, or it is private and this node has "
                "no token for it (HF_TOKEN)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise Refused(f"{files.source} has no revision {files.revision!r}") from error
        except Exception as error:  # the library's HTTP client has errors of its own
            raise Unreachable(f"{self.endpoint} does not answer: {_said(error)}") from error
        found = [
            File(
                sibling.rfilename,
                sibling.lfs.size if sibling.lfs is not None else int(sibling.size or 0),
                sibling.lfs.sha256 if sibling.lfs is not None else str(sibling.blob_id),
                sibling.lfs is not None,
            )
            for sibling in info.siblings or []
        ]
        if not _COMMIT.fullmatch(info.sha or "") or any(not _good(file) for file in found):
            raise Unlisted(f"{self.endpoint} does not list sizes and hashes of {files.source}")
        commit = str(info.sha)
        chosen = needed([file.path for file in found])
        large = [file.path for file in found if file.path in chosen and file.size > MAX_FILE]
        if large:
            log.warning("%s: %s is too large for us, the engine fetches it", files.source, large)
        content = tuple(f for f in found if f.path in chosen and f.size <= MAX_FILE)
        return Listing(files, commit, content)

    def url(self, listing: Listing, file: File) -> str:
        """Give the address of a file."""
        return huggingface_hub.hf_hub_url(
            listing.files.source, file.path, revision=listing.commit, endpoint=self.endpoint
        )

    def headers(self) -> dict[str, str]:
        """Give the headers of a request for a file, the token too where there is one."""
        token = huggingface_hub.get_token()
        made = {"User-Agent": "nebula", "Accept-Encoding": "identity"}
        return {**made, "Authorization": f"Bearer {token}"} if token else made

    def measure(self, files: Files) -> Figures:
        """Measure a source from the sizes that the hub tells. Raises the same, and Unmeasurable."""
        listing = self.listing(files)
        sizes = {file.path: file.size for file in listing.content}
        chosen = measuring.weight_files(sizes)
        config = next((each for each in listing.content if each.path == folder.CONFIG), None)
        if config is None:
            raise Unmeasurable("it has no config.json")
        try:
            answer = httpx.get(
                self.url(listing, config),
                headers=self.headers(),
                timeout=TIMEOUT,
                follow_redirects=True,
            )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.endpoint} does not answer: {_said(error)}") from error
        return measuring.figures(
            sum(sizes[name] for name in chosen), folder.decode(folder.CONFIG, answer.content)
        )

    # The cache

    def repository(self, source: str) -> Path:
        """Give a source's folder in the cache."""
        return self.cache / f"models--{source.replace('/', '--')}"

    def blob(self, source: str, file: File) -> Path:
        """Give where a file's bytes lie."""
        return self.repository(source) / "blobs" / file.etag

    def cached(self, files: Files) -> Path | None:
        """Give the folder of a revision that is whole in the cache; None where none is."""
        repository = self.repository(files.source)
        try:
            commit = (repository / "refs" / (files.revision or "main")).read_text().strip()
        except OSError:
            commit = files.revision
        if not commit or PurePosixPath(commit).name != commit:
            return None
        snapshot = repository / "snapshots" / commit
        return snapshot if snapshot.is_dir() and folder.whole(snapshot) else None

    def snapshot(self, listing: Listing) -> Path:
        """Give the folder in which the files of a listing have their names."""
        return self.repository(listing.files.source) / "snapshots" / listing.commit

    def link(self, listing: Listing) -> None:
        """Give the blobs of a listing their names; all of them must be there."""
        repository = self.repository(listing.files.source)
        snapshot = self.snapshot(listing)
        for file in listing.content:
            path = snapshot / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            target = os.path.relpath(self.blob(listing.files.source, file), path.parent)
            if path.is_symlink() and os.readlink(path) != target:  # noqa: PTH115
                path.unlink()
            if not path.exists():
                path.unlink(missing_ok=True)
                path.symlink_to(target)
        if listing.files.revision != listing.commit:
            ref = repository / "refs" / (listing.files.revision or "main")
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = ref.with_name(f"{ref.name}.fresh")
            fresh.write_text(listing.commit)
            fresh.replace(ref)

    def held(self) -> tuple[Weights, ...]:
        """List the sources that lie whole in the cache, at most 1,000."""
        found: list[Weights] = []
        try:
            entries = sorted(self.cache.glob("models--*--*"))
        except OSError:
            return ()
        for entry in entries:
            source = "/".join(entry.name.removeprefix("models--").split("--"))
            if not is_hub_id(source) or len(found) >= MAX_LISTED:
                continue
            try:
                snapshots = filter(folder.whole, (entry / "snapshots").iterdir())
                if (whole := next(snapshots, None)) is not None:
                    size = folder.size(entry / "blobs") or folder.size(whole)
                    found.append(Weights(source, size))
            except OSError as error:
                log.warning("can't look at %s: %s", entry, error)
        return tuple(found)

    def remove(self, source: str) -> None:
        """Delete a source from the cache, whole or not. Raises OSError, Busy.

        Not by the library, which deletes by commits: copies of a source elsewhere have the same.
        """
        with self.locked(source):
            repository = self.repository(source)
            if repository.exists():
                shutil.rmtree(repository)

    @contextlib.contextmanager
    def locked(self, source: str) -> Generator[None, None, None]:
        """Keep other nodes that share the cache off a source. Raises Busy, OSError.

        A lock ends with its process, however that ends.
        """
        path = self.cache / ".locks" / f"{self.repository(source).name}.nebula.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(source) from error
            yield


class Busy(Exception):
    """Another process of this machine fetches or removes the same source in the same cache."""


def needed(paths: list[str]) -> frozenset[str]:
    """Choose what an engine needs of a source's files: not its weights in other formats again."""
    safe = {str(PurePosixPath(path).parent) for path in paths if path.endswith(".safetensors")}
    return frozenset(
        path
        for path in paths
        if not path.startswith("original/")
        and PurePosixPath(path).suffix not in _BESIDE
        and not (PurePosixPath(path).suffix in _PICKLED and str(PurePosixPath(path).parent) in safe)
    )


def _good(file: File) -> bool:
    """Say whether a listed file can be stored: its path stays within, its hash is one."""
    path = PurePosixPath(file.path)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and len(file.etag) == (64 if file.sha256 else 40)
        and all(letter in "0123456789abcdef" for letter in file.etag)
        and file.size >= 0
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
