"""The hub of models, and its cache on this disk, in the layout that engines know.

The layout is documented by the hub's own library: `blobs/<etag>` holds a file's bytes,
`snapshots/<commit>/<path>` links to them, `refs/<revision>` names a commit.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from urllib.parse import quote

import httpx
import huggingface_hub
from huggingface_hub import constants

from nebula.actors.node.secrets import SecretMissing
from nebula.actors.node.weights import answers, folder, listing, measuring
from nebula.actors.node.weights.answers import Answer
from nebula.actors.node.weights.listing import File, Listing, Malformed
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from nebula.actors.node.weights.provision import Files, is_hub_id
from nebula.events.values import Weights

log = logging.getLogger(__name__)

MAX_LISTED = 1_000
"""Sources in a node's registration at most, since the size of an event is limited."""

LISTING_TIME = 60.0
"""Seconds for the hub's complete list of a source's files."""

CONFIG_TIME = 30.0
"""Seconds for a complete config.json."""

_REF_BYTES = 200
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


class Unreachable(Exception):
    """The hub does not answer, or not as a hub does; trying again may help."""


class Refused(Exception):
    """The hub does not have these files, or not for this node; trying again does not help."""


class Hub:
    """One hub, as the environment names it (HF_ENDPOINT, HF_TOKEN), and one cache.

    `token`: finds the value of a secret that a load request names, or raises SecretMissing.
    """

    def __init__(
        self,
        cache: Path | None = None,
        endpoint: str | None = None,
        token: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self._token = token
        self.chosen = cache is not None
        """Whether the cache was configured; otherwise it is where engines look by default."""
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        self.endpoint = endpoint or constants.ENDPOINT

    @property
    def offline(self) -> bool:
        """Whether this machine must not use the hub (HF_HUB_OFFLINE)."""
        return bool(constants.HF_HUB_OFFLINE)

    async def listing(self, files: Files) -> Listing:
        """Return the list of the files of a source that an engine needs.

        Raise Unreachable, Refused, Malformed, Unlisted. The hub's own library is not used for this:
        it reads without any bound.
        """
        if self.offline:
            raise Unreachable("this node must not use the hub (HF_HUB_OFFLINE)")
        at = f"/revision/{quote(files.revision, safe='')}" if files.revision else ""
        answer = await self._asked(
            files,
            f"{self.endpoint}/api/models/{files.source}{at}?blobs=true",
            f"list of the files of {files.source}",
            most=listing.MAX_BYTES,
            seconds=LISTING_TIME,
        )
        code = answer.headers.get("X-Error-Code", "")
        if code == "GatedRepo":
            raise Refused(
                f"{self.endpoint} gives {files.source} only to accounts that its owner has "
                "admitted: give this node a token of such an account (HF_TOKEN)"
            )
        if code == "RevisionNotFound":
            raise Refused(f"{files.source} has no revision {files.revision!r}")
        if code == "RepoNotFound" or answer.status == 401:
            raise Refused(
                f"{self.endpoint} has no {files.source}, or it is private and this node has "
                "no token for it (HF_TOKEN)"
            )
        self._check(answer)
        found = await asyncio.to_thread(listing.read, files, answer.body, self.endpoint)
        if found.left:
            log.warning(
                "%s: too large for this node, the engine fetches %s", files.source, found.left[:9]
            )
        return found

    async def _asked(
        self, files: Files, url: str, what: str, *, most: int, seconds: float
    ) -> Answer:
        """Return a short answer. Raise Unreachable, Refused, and Malformed if it is not short."""
        headers = await self.headers(files)
        try:
            return await answers.read(url, headers, most=most, seconds=seconds)
        except answers.Overlong as error:
            raise Malformed(f"{self.endpoint} gives an endless {what}: {error}") from error
        except answers.Overdue as error:
            raise Unreachable(f"{self.endpoint} gives the {what} too slowly: {error}") from error
        except answers.FAULTS as error:
            raise Unreachable(f"{self.endpoint} does not answer: {_said(error)}") from error

    def _check(self, answer: Answer) -> None:
        """Raise Unreachable for an answer without the requested body."""
        if answer.status != 200:
            told = answer.headers.get("X-Error-Message", "")[:300]
            raise Unreachable(
                f"{self.endpoint} does not answer: it says {answer.status} {told}".rstrip()
            )
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise Unreachable(f"{self.endpoint} answers in {encoding[:40]}, not as requested")

    def url(self, listing: Listing, file: File) -> str:
        """Return the address of a file."""
        return huggingface_hub.hf_hub_url(
            listing.files.source, file.path, revision=listing.commit, endpoint=self.endpoint
        )

    async def headers(self, files: Files) -> dict[str, str]:
        """Return the headers of a request for a file, with the token if there is one.

        Raise Refused or Unreachable if the token is a secret that this node does not find.
        """
        if files.secret and self._token is not None:
            try:
                token: str | None = (await self._token(files.secret)).strip()
            except SecretMissing as error:
                lasts = bool(error.told(again=False)[1])
                raise (Refused if lasts else Unreachable)(error.told(again=True)[0]) from None
        else:
            token = huggingface_hub.get_token()
        made = {"User-Agent": "nebula", "Accept-Encoding": "identity"}
        return {**made, "Authorization": f"Bearer {token}"} if token else made

    async def measure(self, files: Files) -> Figures:
        """Return the measurements of a source. Raise as `listing`, and Unmeasurable."""
        listed = await self.listing(files)
        sizes = {file.path: file.size for file in listed.content}
        chosen = measuring.weight_files(sizes)
        config = next((each for each in listed.content if each.path == folder.CONFIG), None)
        if config is None:
            raise Unmeasurable("it has no config.json")
        answer = await self._asked(
            files,
            self.url(listed, config),
            f"config.json of {files.source}",
            most=folder.CONFIG_BYTES,
            seconds=CONFIG_TIME,
        )
        self._check(answer)
        read = await asyncio.to_thread(folder.decode, folder.CONFIG, answer.body)
        return measuring.figures(sum(sizes[name] for name in chosen), read)

    # The cache

    def repository(self, source: str) -> Path:
        """Return a source's folder in the cache."""
        return self.cache / f"models--{source.replace('/', '--')}"

    def blob(self, source: str, file: File) -> Path:
        """Return the path of a file's blob."""
        return self.repository(source) / "blobs" / file.etag

    def cached(self, files: Files) -> Path | None:
        """Return the folder of a complete revision in the cache; None if there is none."""
        repository = self.repository(files.source)
        try:
            with (repository / "refs" / (files.revision or "main")).open("rb") as ref:
                commit = ref.read(_REF_BYTES).decode(errors="replace").strip()
        except OSError:
            commit = files.revision
        if not _NAME.fullmatch(commit):
            return None
        snapshot = repository / "snapshots" / commit
        return snapshot if snapshot.is_dir() and folder.whole(snapshot) else None

    def snapshot(self, listing: Listing) -> Path:
        """Return the folder in which the files of a listing have their names."""
        return self.repository(listing.files.source) / "snapshots" / listing.commit

    def link(self, listing: Listing) -> None:
        """Link the blobs of a listing to their names; all of them must be there."""
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
        """Return the sources that are complete in the cache, at most 1,000."""
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
                log.warning("can't read %s: %s", entry, error)
        return tuple(found)

    def remove(self, source: str) -> None:
        """Delete a source from the cache, complete or not. Raise OSError, Busy.

        The library is not used: it deletes by commit, which copies of the source share.
        """
        with self.locked(source):
            repository = self.repository(source)
            if repository.exists():
                shutil.rmtree(repository)

    @contextlib.contextmanager
    def locked(self, source: str) -> Generator[None, None, None]:
        """Lock a source against other nodes with the same cache. Raise Busy, OSError.

        The lock ends with its process, however that ends.
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


def _said(error: Exception) -> str:
    said = str(error)
    if isinstance(error, httpx.TimeoutException):
        said = f"nothing arrived for {answers.SILENCE:.0f} s"
    return f"{type(error).__name__}: {said}".strip().splitlines()[0][:300]
