"""Fetches an adapter's files from the hub into its cache, within the same bounds as a model's."""

import asyncio
import logging
from pathlib import Path

import huggingface_hub
from msgspec.structs import replace

from nebula.actors.node import adapter_files
from nebula.actors.node.weights import download
from nebula.actors.node.weights.hub import Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Malformed, Unlisted
from nebula.actors.node.weights.provision import Files, is_hub_id

log = logging.getLogger(__name__)

SECONDS = 600.0
"""Seconds that an adapter's download may take; the next try continues from there."""

_FILES = (adapter_files.CONFIG, *adapter_files.WEIGHTS)


class Failed(Exception):
    """The files of an adapter can't be fetched; the text says why."""


async def fetch(hub: Hub, source: str) -> None:
    """Fetch the adapter's files of a hub's source into the cache. Raise Failed.

    If the hub does not answer, the files in the cache are used. For a folder this does nothing.
    """
    if hub.offline or not await asyncio.to_thread(_of_the_hub, source):
        return
    try:
        async with asyncio.timeout(SECONDS):
            await _bring(hub, source)
    except TimeoutError:
        raise Failed(
            f"{source} can't be fetched from {hub.endpoint}: it was not complete within "
            f"{SECONDS:.0f} s; the next try continues from there"
        ) from None
    except (Unreachable, Malformed) as error:
        if await asyncio.to_thread(found, hub, source) is None:
            raise Failed(f"{source} can't be fetched from {hub.endpoint}: {error}") from error
        log.warning("%s; using the files in the cache", error)
    except (Refused, Unlisted, download.Damaged, download.NoRoom, OSError) as error:
        raise Failed(f"{source} can't be fetched from {hub.endpoint}: {error}") from error


def found(hub: Hub, source: str) -> Path | None:
    """Return the folder of a source, its own or in the cache; None if there is none."""
    if not _of_the_hub(source):
        return Path(source)
    try:
        return Path(
            huggingface_hub.snapshot_download(source, cache_dir=hub.cache, local_files_only=True)
        )
    except (OSError, ValueError):  # the library's errors are of these kinds
        return None


def _of_the_hub(source: str) -> bool:
    return is_hub_id(source) and not source.startswith("/") and not Path(source).is_dir()


async def _bring(hub: Hub, source: str) -> None:
    listing = await hub.listing(Files(source))
    content = tuple(file for file in listing.content if file.path in _FILES)
    wanted = replace(listing, content=content)
    async with download.turn(hub, source):
        absent = await asyncio.to_thread(download.missing, hub, wanted)
        if absent:
            download.check_room(hub, wanted, absent)
        await download.fetch(hub, wanted, lambda _: None)
