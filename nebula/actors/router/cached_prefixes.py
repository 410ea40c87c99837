"""Prefixes that are told by engines too: what they got from whomever, and what they evicted. Pure.

What is told arrives late, and may be lost. A digest that is wrongly believed to be held costs one
prompt its cache hit: the engine that gets the prompt has it from then on.
"""

from nebula.actors.router.prefixes import Prefixes
from nebula.events.cache_news import CacheNews


class CachedPrefixes(Prefixes):
    """Which replicas have the beginning of a prompt in their cache, as far as it is known."""

    def __init__(self, limit: int = 65_536) -> None:
        super().__init__(limit)
        self._told: dict[str, tuple[int, int]] = {}

    def heard(self, news: CacheNews) -> None:
        """Take what an engine tells.

        Where a message of an engine that tells its evictions is missing, nothing is known of it.
        """
        pid, serial = self._told.get(news.replica, (news.pid, news.serial - 1))
        missing = pid == news.pid and serial != news.serial - 1
        if news.forgotten or pid != news.pid or (missing and news.evictions):
            self.forget(news.replica)
        self._told[news.replica] = news.pid, news.serial
        self.lose(news.replica, news.gone)
        self.learn(news.replica, news.held[::-1])

    def forget(self, replica: str) -> None:
        """Forget a replica: a new engine runs there, and its cache is empty."""
        super().forget(replica)
        self._told.pop(replica, None)
