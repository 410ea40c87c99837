"""A NATS connection that reconnects for ever and notifies its listeners.

It does not know what is sent over it.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable

import nats
from msgspec.structs import replace
from nats.errors import NoRespondersError, SlowConsumerError
from nats.js.errors import APIError, ServiceUnavailableError

from nebula.store import credentials, needs, reaching, violations
from nebula.store.credentials import Way
from nebula.store.lasting import LastingClient, ToldByServer
from nebula.store.repetitions import Repetitions

log = logging.getLogger(__name__)

Listener = Callable[[], Awaitable[None]]

PING_EVERY = 2
"""Seconds between pings; two without a sign of life end the connection."""

UNANSWERED_PINGS = 2

LONGEST_TRY = 60.0
"""Seconds for a first try of all servers together; each has its own limits within that."""

ROUND_TRIP = 5.0
"""Seconds for the server to have seen what was sent."""

CLOSING = 2.0
"""Seconds to send pending data when the connection is closed, and the same again to end it."""


class Unavailable(Exception):
    """NATS, or JetStream on it, can't be reached now."""


class NotLetIn(Unavailable):
    """NATS refuses the connection, and waiting does not help; the text says why."""


class Connection:
    """A NATS client, its JetStream context, and listeners for reconnections.

    Subscriptions survive every loss of the connection, whatever ended it.

    Args: url: the server, or several of a cluster joined by commas; or `file:PATH`, a file with
    that text or a context of the `nats` program, which is read again before every try to connect,
    so that credentials may change.
    name: name of this connection in NATS's own tools and log lines.
    role: the role whose credentials are used at a server of `nebula up`, if `url` has none.
    forbids_at_once: a request that NATS does not permit raises Forbidden at once; else it has no
    answer in time.
    """

    def __init__(
        self, url: str, name: str, *, role: str = "operator", forbids_at_once: bool = False
    ) -> None:
        self.url = url
        self.name = name
        self.role = role
        self._forbids_at_once = forbids_at_once
        self._named = url
        self._only = ""
        self._withdrawn = ""
        self._refused_since: float | None = None
        self._barred = asyncio.Event()
        self._prevented = asyncio.Event()
        self._prevents = ""
        self.trouble = ""
        self._moving = False
        self.client = self._new_client()
        self._reconnected: list[Listener] = []
        self._lost: list[Listener] = []
        self._said = Repetitions()

    @property
    def shown(self) -> str:
        """The URL without user, password or token."""
        return reaching.shown(self._named)

    async def open(self, *, patience: float | None = None, if_there: bool = False) -> "Connection":
        """Connect, waiting up to `patience` seconds for a server (None: for ever).

        `if_there`: do not wait for a server to be started: one that is not there is Unavailable.

        Raise NotLetIn if all servers refuse for `reaching.REFUSED_FOR` seconds, or at once if there
        is a patience; raise Unavailable when the time is over.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = math.inf if patience is None else began + patience
        rounds = 0
        while True:
            try:
                await self._connect(max(deadline - loop.time(), 2 * reaching.CONNECT))
                return self
            except (OSError, nats.errors.Error, ValueError) as error:
                rounds += 1
                troubles = tuple(self.client.troubles.values()) or (
                    reaching.trouble(self.shown, error, credentials=True),
                )
                self.trouble = reaching.told(self._named, troubles)
                over = loop.time() >= deadline or (if_there and reaching.absent(troubles))
                if reaching.final(troubles):
                    if patience is not None or loop.time() - began >= reaching.REFUSED_FOR:
                        raise NotLetIn(self.trouble) from None  # it tells all of `error`
                elif over:
                    raise Unavailable(self.trouble) from error
                if patience is None and self._said.due(self.trouble, loop.time()):
                    log.warning("waiting for NATS: %s", self.trouble)
                await asyncio.sleep(reaching.pause(rounds, troubles))

    async def _connect(self, patience: float) -> None:
        self.client = self._new_client()
        try:
            async with asyncio.timeout(min(patience, LONGEST_TRY)):
                await self.client.connect(
                    name=self.name,
                    ping_interval=PING_EVERY,
                    max_outstanding_pings=UNANSWERED_PINGS,
                    pending_size=32 * 1024 * 1024,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                )
        except BaseException:
            self.client.abort()
            raise
        self.trouble = ""

    def _new_client(self) -> LastingClient:
        return LastingClient(self._way, self._on_trouble, forbids_at_once=self._forbids_at_once)

    def _way(self) -> Way:
        """Return the way to the servers as it is now. Raise OSError, BadFile."""
        way = credentials.way(self.url, self.role)
        self._named = ",".join(way.servers)
        return replace(way, servers=(self._only,)) if self._only else way

    def beside(self, server: str, name: str) -> "Connection":
        """Return a new connection, with the same credentials, to another server of the cluster.

        `server`: host and port of one of the client's `others`. Raise LookupError.
        """
        other = Connection(self.url, name, role=self.role)
        other._only = self.client.url_of(server)
        return other

    @property
    def connected(self) -> bool:
        """Whether a server is reachable now."""
        return bool(self.client.is_connected)

    @property
    def max_body(self) -> int:
        """The largest message body, in bytes, that the server takes."""
        return int(self.client.max_payload)

    @property
    def server(self) -> str:
        """Host and port of the connected server, or else of the named ones."""
        at = self.client.connected_url
        return f"{at.hostname}:{at.port}" if at is not None else self.shown

    @property
    def others(self) -> tuple[str, ...]:
        """Host and port of each other server that it knows."""
        return self.client.others if self.connected else ()

    async def move(self, server: str, reason: str) -> None:
        """Go over to another server, as after a loss but without one.

        Args:
            server: one of the `others`.
            reason: why, for the log.
        """
        log.warning("%s: moves from NATS at %s to %s: %s", self.name, self.server, server, reason)
        await self.client.move(server)
        self._moving = self.client.is_reconnecting  # else it was lost meanwhile

    @property
    def lacking(self) -> str:
        """What the server lacks for Nebula, in words; "" if nothing."""
        if self.max_body >= needs.LEAST_PAYLOAD or not self.connected:
            return ""
        return needs.lacking(self.server, self.max_body)

    def refusal(self, error: Exception) -> str:
        """Return in words why a request to JetStream failed."""
        said = (error.description or "") if isinstance(error, APIError) else ""
        no_responder = isinstance(error, NoRespondersError | ServiceUnavailableError) and not said
        return needs.refusal(self.server, self.client.has_jetstream, said, no_responder)

    def on_reconnect(self, listener: Listener) -> None:
        """Call `listener` after every reconnection."""
        self._reconnected.append(listener)

    def on_disconnect(self, listener: Listener) -> None:
        """Call `listener` whenever the server is lost."""
        self._lost.append(listener)

    def forget(self, listener: Listener) -> None:
        """Stop calling `listener`."""
        for listeners in (self._reconnected, self._lost):
            if listener in listeners:
                listeners.remove(listener)

    async def barred(self) -> None:
        """Wait until NATS has withdrawn the credentials for good. Raise NotLetIn then.

        That is so once it has said that they are revoked or expired, and has refused whatever is in
        their file for `reaching.REFUSED_FOR` seconds.
        """
        await self._barred.wait()
        raise NotLetIn(f"{self.trouble}: {self._withdrawn}")

    async def prevented(self) -> None:
        """Wait until NATS refuses what the role can't do without. Raise NotLetIn then."""
        await self._prevented.wait()
        raise NotLetIn(f"{self.name}: {self._prevents}")

    async def heard(self) -> None:
        """Wait until NATS has said what it refuses of what was sent. Raise NotLetIn as above."""
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await self.client.flush(timeout=ROUND_TRIP)
        if self._prevents:
            await self.prevented()

    async def close(self) -> None:
        """Send what is pending, then disconnect, within twice CLOSING seconds. Never raises."""
        if self.client.is_connected:
            try:
                async with asyncio.timeout(CLOSING):
                    await self.client.flush()
            except (nats.errors.Error, TimeoutError, OSError):
                log.debug("%s: could not flush before closing", self.name)
        try:
            async with asyncio.timeout(CLOSING):
                await self.client.close()
        except (nats.errors.Error, OSError) as error:
            # It tries to send pending data even if the server is gone.
            log.debug("%s: closed without a server: %r", self.name, error)
        self.client.abort()
        await asyncio.sleep(0)  # a turn of the event loop in which the socket is closed

    async def _on_error(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        words = str(error)
        if isinstance(error, ToldByServer):
            if reaching.withdrawn(words):
                self._withdrawn = words
            if violations.is_violation(words):
                source = self.url if self.url.startswith("file:") else self.shown
                self._prevents = self._prevents or violations.prevents(words, self.role, source)
                if self._prevents:
                    self._prevented.set()
                if self._said.due(reaching.topic(words), now, again=math.inf):
                    log.error("%s: NATS does not allow this: %s", self.name, words)
            elif reaching.refuses_credentials(words):
                if self._said.due(words, now):
                    log.warning(
                        "%s: NATS takes its credentials no longer (%s): it connects again with "
                        "those that it has now",
                        self.name,
                        words,
                    )
            elif self._said.due(words, now):
                log.error("%s: NATS complains: %s", self.name, words)
        elif isinstance(error, SlowConsumerError):
            if self._said.due(reaching.topic(f"slow: {error.subject}"), now):
                log.warning("%s: too slow for %s: messages got lost", self.name, error.subject)
        else:
            log.debug("%s: NATS: %r", self.name, error)

    def _on_trouble(self) -> None:
        """Log why a lost server can't be reached again, whenever that changes and once a minute.

        It is an error once no server has let it in for `reaching.REFUSED_FOR` seconds: while
        credentials are replaced, a try may come too early.
        """
        if not self.client.was_connected:
            return  # `open` tells
        troubles = tuple(self.client.troubles.values())
        self.trouble = reaching.told(self._named, troubles)
        now = asyncio.get_running_loop().time()
        level = logging.WARNING
        if reaching.final(troubles):
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since >= reaching.REFUSED_FOR:
                level = logging.ERROR
                if self._withdrawn:
                    self._barred.set()
        if self._said.due(f"{level} {self.trouble}", now):
            log.log(level, "%s: %s", self.name, self.trouble)

    async def _on_disconnect(self) -> None:
        if not self.client.is_closed and not self._moving:
            log.warning("%s: lost NATS at %s", self.name, self.shown)
        await self._tell(self._lost)

    async def _on_reconnect(self) -> None:
        self.trouble = self._withdrawn = ""
        self._refused_since = None
        if self._moving:
            log.warning("%s: has moved to NATS at %s", self.name, self.server)
        else:
            log.warning("%s: NATS is back", self.name)
        self._moving = False
        await self._tell(self._reconnected)

    async def _tell(self, listeners: list[Listener]) -> None:
        """Call all listeners; a failing one delays neither the others nor the connection."""
        for listener in tuple(listeners):
            try:
                await listener()
            except Exception:
                log.exception("%s: a listener failed", self.name)
