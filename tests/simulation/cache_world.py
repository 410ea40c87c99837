"""Replicas with prefix caches that are too small, and several routers that choose among them.

What chooses and what is told is Nebula's own code. An engine computes one prompt after the other,
keeps whole blocks, evicts those that were used longest ago, and publishes that, as vLLM does.
Clients ask one question after the other about documents, some of which are asked for more often.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import count
from typing import Literal, NamedTuple

import msgspec

from nebula.actors.engine import cached_blocks as engine
from nebula.actors.engine.cache_report import CacheReport
from nebula.actors.engine.cache_telling import EVERY
from nebula.actors.engine.cached_blocks import CachedBlocks
from nebula.actors.engine.kv_events import changes
from nebula.actors.router import routing
from nebula.actors.router.cached_prefixes import CachedPrefixes
from nebula.actors.router.prefixes import BOUNDS, digests
from nebula.events.inference import ReplicaCandidate

BLOCK = 128
"""Tokens of a block, as vLLM has them on a CPU."""

TOKEN = 5
"""Bytes of a token."""

PREFILL = 1 / 900
ANSWER = 0.08
"""Seconds for a token of a prompt that is not cached, and for an answer."""

Block = tuple[int, ...]

Told = Literal["", "got", "evicted"]
"""What engines tell routers: nothing, what they got, or what they got and evicted."""


class Scene(NamedTuple):
    """What there is. `cache`: the part of all documents that all caches can hold together."""

    replicas: int
    routers: int
    documents: int
    clients: int
    cache: float
    asked: int = 1500


class Seen(NamedTuple):
    """What came of it: the part of the prompts' tokens that was cached, the median wait."""

    hit_rate: float
    wait: float


class Prompt(NamedTuple):
    """A question about a document: its number, bytes, blocks, tokens, and digests."""

    number: int
    size: int
    blocks: tuple[Block, ...]
    tokens: int
    prefix: tuple[str, ...]


class Cache:
    """The cache of one engine."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.blocks: OrderedDict[Block, None] = OrderedDict()
        self.users: Counter[Block] = Counter()
        self.free_at = 0.0

    def finds(self, prompt: Prompt) -> int:
        """Return how many blocks of a prompt it holds from the beginning."""
        found = 0
        while found < len(prompt.blocks) and prompt.blocks[found] in self.blocks:
            found += 1
        return found

    def takes(self, prompt: Prompt) -> list[Block]:
        """Hold a prompt's blocks; return those that are evicted for it."""
        for block in prompt.blocks:
            self.blocks.setdefault(block)
            self.users[block] += 1
        evicted = []
        for block in list(self.blocks):
            if len(self.blocks) <= self.room:
                break
            if not self.users[block]:
                del self.blocks[block]
                evicted.append(block)
        return evicted

    def leaves(self, prompt: Prompt) -> None:
        """Note that a prompt's answer has ended: its blocks may be evicted, the last one first."""
        for block in reversed(prompt.blocks):
            self.users[block] -= 1
            if block in self.blocks:
                self.blocks.move_to_end(block)


class World:
    """One run."""

    def __init__(self, scene: Scene, seed: int, told: Told = "") -> None:
        self.scene = scene
        self.told = told
        self._rng = random.Random(seed)
        self._documents = [self._document(number) for number in range(scene.documents)]
        blocks = sum(len(text) // TOKEN // BLOCK for text in self._documents)
        room = max(10, int(blocks * scene.cache / scene.replicas))
        self.caches = {f"m-{number}": Cache(room) for number in range(scene.replicas)}
        self.routers = [CachedPrefixes() for _ in range(scene.routers)]
        self.reports = {name: CacheReport(name, 1) for name in self.caches}
        self.blocks = {name: CachedBlocks() for name in self.caches}
        self.in_flight: Counter[str] = Counter()
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._turns = count()
        self._left = scene.asked
        self._hits = self._tokens = 0
        self._waits: list[float] = []

    def run(self, choose: Callable[[World, Prompt], str]) -> Seen:
        """Let all clients ask until all has been asked."""
        for client in range(self.scene.clients):
            self._after(client / 100, lambda: self._ask(choose))
        while self._due:
            self.now, _, happens = heapq.heappop(self._due)
            happens()
        waits = sorted(self._waits)
        return Seen(self._hits / self._tokens, waits[len(waits) // 2])

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._turns), happens))

    def _document(self, number: int) -> bytes:
        return b"%d " % number + self._rng.randbytes(self._rng.randint(512, 768) * TOKEN)

    def _prompt(self) -> Prompt:
        weights = [1 / (number + 1) ** 0.8 for number in range(self.scene.documents)]
        [number] = self._rng.choices(range(self.scene.documents), weights)
        document, question = self._documents[number], self._rng.randbytes(20 * TOKEN)
        own = len(document) // TOKEN // BLOCK
        tokens = (len(document) + len(question)) // TOKEN
        blocks: list[Block] = [(number, each) for each in range(own)]
        blocks += [(number, each, int.from_bytes(question)) for each in range(own, tokens // BLOCK)]
        text = document + question
        return Prompt(self._left, len(text), tuple(blocks), tokens, digests(text))

    def _ask(self, choose: Callable[[World, Prompt], str]) -> None:
        if not self._left:
            return
        self._left -= 1
        prompt = self._prompt()
        name = choose(self, prompt)
        cache = self.caches[name]
        self.in_flight[name] += 1
        starts = max(self.now, cache.free_at)
        cache.free_at = starts + (prompt.tokens - cache.finds(prompt) * BLOCK) * PREFILL
        asked = self.now
        self._after(starts - self.now, lambda: self._compute(choose, name, prompt, asked))

    def _compute(
        self, choose: Callable[[World, Prompt], str], name: str, prompt: Prompt, asked: float
    ) -> None:
        cache = self.caches[name]
        found = cache.finds(prompt)
        self._hits += found * BLOCK
        self._tokens += prompt.tokens
        seconds = (prompt.tokens - found * BLOCK) * PREFILL
        self._waits.append(self.now + seconds - asked)
        self._changes(name, prompt, found, cache.takes(prompt))

        def ends() -> None:
            cache.leaves(prompt)
            self.in_flight[name] -= 1
            self._ask(choose)

        self._after(seconds + ANSWER, ends)

    def _changes(self, name: str, prompt: Prompt, found: int, evicted: Sequence[Block]) -> None:
        if not self.told:
            return
        report = self.reports[name]
        was_due = report.due
        report.got(prompt.prefix, self.now)
        if self.told == "evicted":
            report.evictions = True
            blocks = self.blocks[name]
            blocks.came(str(prompt.number), engine.Prompt(prompt.prefix, prompt.size))
            difference = blocks.happened(changes(published(prompt, found, evicted)))
            report.evicted(difference.gone)
            report.got(difference.held[::-1], self.now)
        if report.due and not was_due:
            self._after(EVERY, lambda: self._tell(report))

    def _tell(self, report: CacheReport) -> None:
        news = report.news()
        for router in self.routers:
            router.heard(news)

    def chosen(self, prompt: Prompt, known: dict[str, int], least: int) -> str:
        """Choose as a router does that knows of these replicas."""
        found = [
            ReplicaCandidate(
                name,
                self.in_flight[name],
                prefix=seen if (seen := known.get(name, 0)) >= least else 0,
            )
            for name in self.caches
        ]
        key = prompt.prefix[max(0, len(prompt.prefix) - 2)]
        replica = routing.choose(found, key, 64)
        assert replica is not None
        return replica

    def any_router(self) -> CachedPrefixes:
        """Return the router that a request comes to."""
        return self._rng.choice(self.routers)

    def by_chance(self, _: Prompt) -> str:
        """Choose by chance."""
        return self._rng.choice(list(self.caches))

    def by_router(self, prompt: Prompt) -> str:
        """Choose as one of the routers does."""
        router = self.any_router()
        least = BOUNDS[max(0, len(prompt.prefix) - 2)]
        name = self.chosen(prompt, router.known(prompt.prefix), least)
        router.learn(name, prompt.prefix)
        return name

    def knowing_all(self, prompt: Prompt) -> str:
        """Choose as a router would that knows at each moment what each cache holds."""
        held = {name: cache.finds(prompt) for name, cache in self.caches.items()}
        return self.chosen(prompt, held, 1)


def published(prompt: Prompt, found: int, evicted: Sequence[Block]) -> bytes:
    """Return what vLLM publishes when it computes a prompt of which it has found some blocks."""
    names = [_hash(block) for block in prompt.blocks]
    told: list[dict[str, object]] = []
    if evicted:
        gone = [_hash(block) for block in evicted]
        told.append({"type": "BlockRemoved", "block_hashes": gone, "medium": "GPU"})
    if names[found:]:
        told.append(
            {
                "type": "BlockStored",
                "block_hashes": names[found:],
                "parent_block_hash": names[found - 1] if found else None,
                "token_ids": [0] * BLOCK * len(names[found:]),
                "block_size": BLOCK,
                "medium": "GPU",
                "group_idx": 0,
                "session_id": str(prompt.number),
            }
        )
    return msgspec.msgpack.encode([0.0, told, 0])


def _hash(block: Block) -> int:
    return int.from_bytes(blake2b(repr(block).encode(), digest_size=8).digest())
