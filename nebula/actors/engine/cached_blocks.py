"""Which blocks of an engine's KV cache hold which beginnings of prompts. Pure.

Routers know prompts by digests of their first bytes, an engine by the hashes of blocks of tokens.
Both meet in a request: its digests came with it, and the blocks that it stored name it. A digest
stands for the block that has the last of its bytes, if bytes are spread evenly over the blocks.
vLLM evicts the end of a prompt before its beginning, so with that block the beginning goes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from nebula.actors.engine.kv_events import BlockHash, Change, Cleared, Removed, Stored
from nebula.actors.router.prefixes import BOUNDS

PROMPTS, DIGESTS, BLOCKS = 4096, 65_536, 1 << 18
"""How many of each are remembered at most. Without the oldest prompts and digests some evictions
are not told of; with more blocks everything is forgotten."""


class Prompt(Struct, frozen=True):
    """A prompt that the engine got: its digests, the shortest first, and its size in bytes."""

    digests: tuple[str, ...]
    size: int


class Difference(Struct, frozen=True):
    """What changes have done: digests that are held now, digests that are not any more.

    `forgotten`: nothing is known any more of what was held before.
    """

    held: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    forgotten: bool = False


class CachedBlocks:
    """The blocks that an engine has told of since it began, or since everything was forgotten."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()
        self._begun: set[str] = set()
        """Those prompts of which blocks were stored."""
        self._blocks: dict[BlockHash, tuple[BlockHash | None, int]] = {}
        """For each block its parent, and how many blocks there are up to it."""
        self._block_of: OrderedDict[str, BlockHash] = OrderedDict()
        self._digests_of: dict[BlockHash, set[str]] = {}

    def came(self, session: str, prompt: Prompt) -> None:
        """Note a prompt.

        Where all of it is cached nothing will be stored: what is new of its digests stands for the
        last block that is known of it.
        """
        self._prompts[session] = prompt
        if len(self._prompts) > PROMPTS:
            self._begun.discard(self._prompts.popitem(last=False)[0])
        last: BlockHash | None = None
        for digest in prompt.digests:
            known = self._block_of.get(digest)
            if known is not None:
                last = known
                self._block_of.move_to_end(digest)
            elif last is not None:
                self._stands_for(digest, last)

    def happened(self, changes: Iterable[Change] | None) -> Difference:
        """Take what the engine tells, or None if something of it was lost."""
        if changes is None:
            self._forget()
            return Difference(forgotten=True)
        held: dict[str, bool] = {}
        forgotten = False
        for change in changes:
            match change:
                case Stored():
                    held.update(dict.fromkeys(self._stored(change), True))
                case Removed(hashes=hashes):
                    held.update(dict.fromkeys(self._removed(hashes), False))
                case Cleared():
                    self._forget()
                    held, forgotten = {}, True
        if len(self._blocks) > BLOCKS:
            self._forget()
            held, forgotten = {}, True
        return Difference(
            tuple([digest for digest, there in held.items() if there]),
            tuple([digest for digest, there in held.items() if not there]),
            forgotten,
        )

    def holds(self, digest: str) -> bool:
        """Return whether the block that a digest stands for is there."""
        return digest in self._block_of

    def _stored(self, stored: Stored) -> Sequence[str]:
        parent, depth = stored.parent, 0
        if parent is not None:
            if parent not in self._blocks:
                return ()  # it was stored before anyone listened, so its place is unknown
            depth = self._blocks[parent][1]
        for block in stored.hashes:
            depth += 1
            self._blocks[block] = parent, depth
            parent = block
        prompt = self._prompts.get(stored.session)
        # An answer is stored block by block after its prompt.
        if prompt is None or (len(stored.hashes) == 1 and stored.session in self._begun):
            return ()
        self._begun.add(stored.session)
        return self._place(prompt, stored.hashes[-1], depth)

    def _place(self, prompt: Prompt, last: BlockHash, depth: int) -> Sequence[str]:
        """Let a prompt's digests stand for its blocks, of which `last` is the last whole one."""
        whole: list[BlockHash] = []
        block: BlockHash | None = last
        while block is not None and block in self._blocks:
            whole.append(block)
            block = self._blocks[block][0]
        if len(whole) < depth:
            return ()  # some of its blocks have been evicted
        whole.reverse()
        halves = 2 * depth + 1  # of blocks: the last one is not whole, and about half full
        for digest, bound in zip(prompt.digests, BOUNDS, strict=False):
            place = -(-bound * halves // (2 * max(prompt.size, bound)))
            self._stands_for(digest, whole[min(place, depth) - 1])
        return prompt.digests

    def _stands_for(self, digest: str, block: BlockHash) -> None:
        self._let_go(digest)
        self._block_of[digest] = block
        self._digests_of.setdefault(block, set()).add(digest)
        while len(self._block_of) > DIGESTS:
            self._let_go(next(iter(self._block_of)))

    def _let_go(self, digest: str) -> None:
        block = self._block_of.pop(digest, None)
        if block is not None:
            digests = self._digests_of[block]
            digests.remove(digest)
            if not digests:
                del self._digests_of[block]

    def _removed(self, hashes: Iterable[BlockHash]) -> list[str]:
        gone: list[str] = []
        for block in hashes:
            self._blocks.pop(block, None)
            for digest in self._digests_of.pop(block, ()):
                del self._block_of[digest]
                gone.append(digest)
        return gone

    def _forget(self) -> None:
        self._blocks.clear()
        self._block_of.clear()
        self._digests_of.clear()
        self._begun.clear()
