"""Watches a waiting client: notices that it disconnects, and that its stream is silent.

Proxies and clients close connections that are silent for a minute. So a silent stream sends a
comment, which the event stream format provides for that
(https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes).
"""

import asyncio
from time import monotonic
from typing import Protocol
from weakref import WeakKeyDictionary

from litestar.types import Receive

from nebula.openai.sse import ends_event, ends_line

WATCH_AFTER = 0.05
"""Seconds after which, or up to twice that, a task is started to notice that the client leaves."""

HEAD_AFTER = 10.0
"""Seconds of silence after which a stream's head is sent; an earlier refusal can still set the
status."""

COMMENT_AFTER = 10.0
"""Seconds of silence after which a stream that has begun sends a sign of life."""

LOOK = 1.0
"""Seconds between two checks of all streams."""

COMMENT = b": waiting\n"
"""A line that begins with a colon is a comment, not an event."""


def comment_after(sent: bytes) -> bytes:
    """Return a comment for a stream whose last bytes were `sent`; b"" amid a line.

    An empty line after it keeps simple clients from reading it as part of the next event. Amid an
    event it would cut the event in two, and if events have ids, OpenAI's Python client reads it as
    an event without data (openai 3.57, `SSEDecoder.decode`).
    """
    if sent and not ends_line(sent):
        return b""
    alone = not sent or (ends_event(sent) and not sent.startswith(b"id:"))
    return COMMENT + b"\n" if alone else COMMENT


class Watched(Protocol):
    """An answer for which a client waits."""

    def nudge(self) -> None:
        """Ask for a sign of life to the client."""

    def leave(self) -> None:
        """Note that the client has disconnected."""


class Watch:
    """Notices after a while that the client has disconnected, or that its stream is silent.

    `last`: the last bytes of the stream that were sent, without comments. Only `look` reads it, so
    that it costs next to nothing to set.
    """

    def __init__(self, source: Watched, receive: Receive, stream: bool) -> None:
        self.last = b""
        self._source = source
        self._receive = receive
        self._stream = stream
        self._patience = HEAD_AFTER
        self._seen = b""
        self._said_at = 0.0
        self._task: asyncio.Task[None] | None = None
        _waiting.add(self)

    def said(self) -> None:
        """Note that a sign of life was sent."""
        self._said_at = asyncio.get_running_loop().time()
        self._patience = COMMENT_AFTER

    def follow(self) -> None:
        """Watch for silence too, because the answer is a stream."""
        self._stream = True
        if self._task is not None:
            self._follow()

    def stop(self) -> None:
        """Stop watching."""
        _waiting.discard(self)
        if self._task is not None:
            self._task.cancel()
            if self._stream:
                _streams[asyncio.get_running_loop()].discard(self)

    def start(self) -> None:
        """Start watching."""
        self._said_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._departure())
        if self._stream:
            self._follow()

    def look(self) -> None:
        """Ask for a sign of life if nothing was sent for long."""
        if self.last is not self._seen:
            self._seen = self.last
            self.said()
        elif asyncio.get_running_loop().time() - self._said_at > self._patience:
            self._source.nudge()

    def _follow(self) -> None:
        _streams.setdefault(asyncio.get_running_loop(), _Streams()).add(self)

    async def _departure(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._source.leave()


class _Waiting:
    """Watches that have not begun: they share one timer, since most answers end before it fires."""

    def __init__(self) -> None:
        self._young: set[Watch] = set()
        self._old: set[Watch] = set()
        self._timed_until = 0.0

    def add(self, watch: Watch) -> None:
        self._young.add(watch)
        if monotonic() > self._timed_until:
            self._wait()

    def discard(self, watch: Watch) -> None:
        self._young.discard(watch)
        self._old.discard(watch)

    def _wait(self) -> None:
        self._timed_until = monotonic() + 2 * WATCH_AFTER  # another loop's timer may never fire
        asyncio.get_running_loop().call_later(WATCH_AFTER, self._grow_old)

    def _grow_old(self) -> None:
        """Begin those that had to wait for the whole time."""
        self._timed_until = 0.0
        due, self._old, self._young = self._old, self._young, set()
        for watch in due:
            watch.start()
        if self._old:
            self._wait()


_waiting = _Waiting()


class _Streams:
    """Watches of an event loop's streams: they share one timer, so that events cost none."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watch: Watch) -> None:
        self._watches.add(watch)
        if self._timer is None:
            self._wait()

    def discard(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        for watch in tuple(self._watches):
            watch.look()
        if self._watches:
            self._wait()


_streams: WeakKeyDictionary[asyncio.AbstractEventLoop, _Streams] = WeakKeyDictionary()
