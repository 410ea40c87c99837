"""Reads what vLLM publishes about the blocks of its KV cache (vllm/distributed/kv_events.py). Pure.

Only what is needed is read: not the token ids, which are most of it. Kinds of events and fields
that are not known here are passed over, so that a newer vLLM is read too.
"""

from typing import TypeAlias

import msgspec
from msgspec import Struct

from nebula.events.reading import UNREADABLE

BlockHash: TypeAlias = int | bytes

ON_DEVICE = frozenset({None, "GPU"})
"""The mediums that are read, by vLLM's names: elsewhere are copies. Its CPU build says GPU too."""


class Stored(Struct, frozen=True):
    """Blocks of a prompt, or of an answer, were stored one after the other.

    `parent`: the block before them, if there is one. `session`: the id that came with the request
    as X-Session-ID; "" for none.
    """

    hashes: tuple[BlockHash, ...]
    parent: BlockHash | None = None
    session: str = ""


class Removed(Struct, frozen=True):
    """Blocks were evicted."""

    hashes: tuple[BlockHash, ...]


class Cleared(Struct, frozen=True):
    """All blocks were removed."""


Change: TypeAlias = Stored | Removed | Cleared


class _Event(Struct, frozen=True):
    type: str
    block_hashes: tuple[BlockHash, ...] = ()
    parent_block_hash: BlockHash | None = None
    medium: str | None = None
    group_idx: int | None = None
    session_id: str | None = None


class _Batch(Struct, frozen=True, array_like=True):
    ts: float
    events: tuple[_Event, ...]


_decoder = msgspec.msgpack.Decoder(_Batch)


def changes(payload: bytes) -> tuple[Change, ...] | None:
    """Return what a message tells, in its order; None if it can't be read.

    A model with several kinds of attention has groups of blocks, of which the first is read.
    """
    try:
        batch = _decoder.decode(payload)
    except UNREADABLE:
        return None
    found: list[Change] = []
    for event in batch.events:
        if event.group_idx or event.medium not in ON_DEVICE:
            continue
        hashes = event.block_hashes
        if event.type == "BlockStored" and hashes:
            found.append(Stored(hashes, event.parent_block_hash, event.session_id or ""))
        elif event.type == "BlockRemoved":
            found.append(Removed(hashes))
        elif event.type == "AllBlocksCleared":
            found.append(Cleared())
    return tuple(found)
