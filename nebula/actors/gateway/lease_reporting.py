"""Reports what a gateway has of leases to the routers that lend, and hears their answers."""

from collections.abc import Callable, Iterable

import msgspec

from nebula.actors.attribution import attributed
from nebula.actors.gateway.in_flight import Surroundings
from nebula.actors.gateway.leasing import Leases
from nebula.events import subjects
from nebula.events.cache_news import CacheNews
from nebula.events.leases import LeasesAsked, LeasesGranted
from nebula.events.reading import decoded, last_token
from nebula.store.client import FastClient


class LeaseReporting:
    """The messages about the leases of a gateway, which it puts among its surroundings.

    `now` returns seconds of a monotonic clock. `post` publishes: subject, header block, body.
    """

    def __init__(
        self,
        gateway: str,
        around: Surroundings,
        now: Callable[[], float],
        post: Callable[[str, bytes, bytes], None],
    ) -> None:
        self._gateway = gateway
        self._around = around
        self.leases = around.leases = Leases(gateway)
        self._now = now
        self._post = post
        self._client: FastClient | None = None

    async def listen(self, client: FastClient) -> None:
        """Listen to routers."""
        self._client = client
        await client.listen(subjects.leases_granted(self._gateway, "*"), self.on_granted)
        await client.listen(subjects.LEASES_RECALLED, self.on_recalled)
        if self.leases.asks:
            await client.listen(subjects.CACHES, self.on_cache)

    def report(self) -> None:
        """Report to routers what is due, if NATS is there; call it every quarter of a second."""
        if not (self.leases.asks and self._around.link.connected):
            return
        if self._client is not None and (most := self.leases.most):
            self._client.expect(most)
        self._tell(self.leases.reports(self._around.heartbeats.routers(), self._now()))

    def on_granted(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take a router's answer."""
        answer = decoded(body, LeasesGranted)
        if answer is not None:
            self.leases.granted(last_token(subject), answer, self._around.state, self._now())

    def on_recalled(self, subject: bytes, _: bytes, __: bytes) -> None:
        """Return what is held of a model for which clients wait in a router."""
        model = subject.split(b".")[3].decode("utf-8", "replace")
        self._tell(self.leases.recalled(model, self._now()))

    def on_cache(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take what a replica tells of its prefix cache."""
        news = attributed(subject, body, CacheNews)
        if news is not None:
            self.leases.caches(news, self._around.state)

    def _tell(self, reports: Iterable[tuple[str, LeasesAsked]]) -> None:
        for router, asked in reports:
            subject = subjects.leases_asked(self._gateway, router)
            self._post(subject, b"", msgspec.json.encode(asked))
