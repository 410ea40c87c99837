"""Remembers which replicas got the beginning of a prompt, and may have it in their cache.

By itself it is an estimate: an engine evicts cache entries silently, unless it is asked to tell
(`cached_prefixes.py`). As in the engine, the oldest entries are forgotten first, and the end of a
prompt before its beginning.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from zlib import crc32

BOUNDS = tuple(256 << doubled for doubled in range(9))
"""The lengths of the digested beginnings of a prompt, in bytes."""


def digests(prompt: bytes, apart: bytes = b"") -> tuple[str, ...]:
    """Return digests of the beginnings of a prompt, one for each length it reaches, shortest first.

    `apart`: anything else that a cache depends on, such as the adapter.

    A part of a prompt counts by its CRC, which takes a tenth of a hash's time: two prompts that are
    taken for one may go to one replica, and nothing else follows from it.
    """
    if len(prompt) < BOUNDS[0]:
        return ()
    digest = blake2b(b"%b\0" % apart, digest_size=8, usedforsecurity=False)
    view = memoryview(prompt)
    found = []
    start = 0
    for bound in BOUNDS:
        if bound > len(prompt):
            break
        digest.update(crc32(view[start:bound]).to_bytes(4))
        found.append(digest.hexdigest())
        start = bound
    return tuple(found)


class Prefixes:
    """Remembers at most `limit` pairs of a replica and a digest."""

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        # An engine is a number, so that a replica's old engine is forgotten by dropping its number:
        # its entries can't be found any more and age out.
        self._engines: dict[str, int] = {}
        self._replicas: dict[int, str] = {}
        self._started = 0
        self._sent: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._holders: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def learn(self, replica: str, digests: Sequence[str]) -> None:
        """Note that a replica gets a prompt with these digests."""
        if not digests:
            return
        engine = self._engines.get(replica)
        if engine is None:
            self._started = engine = self._started + 1
            self._engines[replica] = engine
            self._replicas[engine] = replica
        for digest in reversed(digests):
            pair = (digest, engine)
            if pair in self._sent:
                self._sent.move_to_end(pair)
                continue
            self._sent[pair] = None
            self._holders.setdefault(digest, set()).add(engine)
        while len(self._sent) > self._limit:
            self._let_go(*self._sent.popitem(last=False)[0])

    def known(self, digests: Sequence[str]) -> dict[str, int]:
        """Return for each replica that got one of these beginnings the bytes of the longest."""
        known: dict[str, int] = {}
        for index in range(len(digests) - 1, -1, -1):
            for engine in self._holders.get(digests[index], ()):
                replica = self._replicas.get(engine)
                if replica is not None:
                    known.setdefault(replica, BOUNDS[index])
            if len(known) == len(self._replicas):
                break
        return known

    def lose(self, replica: str, digests: Sequence[str]) -> None:
        """Note that a replica has evicted the beginnings with these digests."""
        engine = self._engines.get(replica)
        if engine is None:
            return
        for digest in digests:
            if self._sent.pop((digest, engine), self) is None:
                self._let_go(digest, engine)

    def forget(self, replica: str) -> None:
        """Forget what a replica got: a new engine runs there, and its cache is empty."""
        engine = self._engines.pop(replica, None)
        if engine is not None:
            del self._replicas[engine]

    def _let_go(self, digest: str, engine: int) -> None:
        holders = self._holders[digest]
        holders.remove(engine)
        if not holders:
            del self._holders[digest]
