"""What an engine is to tell of its prefix cache, collected between two messages. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from nebula.events.cache_news import MOST, CacheNews

AGAIN = 10.0
"""Seconds after which a digest is told again, when it is used again: a router may have come, or may
have missed a message."""

REMEMBERED = 65_536
"""Digests of which is remembered when they were told last."""


class CacheReport:
    """The report of one engine; `pid` is its process."""

    def __init__(self, replica: str, pid: int) -> None:
        self._replica = replica
        self._pid = pid
        self._serial = 0
        self._told: OrderedDict[str, float] = OrderedDict()
        self._held: dict[str, None] = {}
        self._gone: dict[str, None] = {}
        self._forgotten = False
        self.evictions = False
        """Whether it also hears what is evicted."""

    @property
    def due(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._held or self._gone or self._forgotten)

    def got(self, digests: Sequence[str], now: float) -> None:
        """Note that the engine got a prompt with these digests, the shortest first."""
        for digest in reversed(digests):
            self._gone.pop(digest, None)
            told = self._told.get(digest)
            if told is None or now - told >= AGAIN:
                self._told[digest] = now
                self._told.move_to_end(digest)
                self._held.pop(digest, None)
                self._held[digest] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def evicted(self, digests: Iterable[str]) -> None:
        """Note that the cache has evicted the beginnings with these digests."""
        for digest in digests:
            self._told.pop(digest, None)
            self._held.pop(digest, None)
            self._gone[digest] = None
        if len(self._gone) > MOST:
            self.forget()

    def forget(self) -> None:
        """Note that nothing is known of the cache: all that was told is void."""
        self._told.clear()
        self._held.clear()
        self._gone.clear()
        self._forgotten = True

    def news(self) -> CacheNews:
        """Return the next message."""
        self._serial += 1
        news = CacheNews(
            replica=self._replica,
            pid=self._pid,
            serial=self._serial,
            held=tuple(self._held)[-MOST:],
            gone=tuple(self._gone),
            evictions=self.evictions,
            forgotten=self._forgotten,
        )
        self._held.clear()
        self._gone.clear()
        self._forgotten = False
        return news
