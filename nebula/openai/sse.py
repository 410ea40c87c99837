"""Server-sent events: where each of a stream ends, and what it says. Pure.

vLLM ends every line with LF, and begins every event with `data: `. Other servers write CRLF, or
comments, or no blank behind the colon:
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re

LONGEST = 16 * 1024 * 1024
"""Bytes that are kept of an event which is not whole; more than that is handed out in parts."""

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_LINE = re.compile(_LINE_END)
_END = re.compile(_LINE_END * 2)
_BEFORE = 3
"""Bytes of an event's end that may have come before its last one."""


class EventSplitter:
    """Cuts the bytes of a stream into whole events, each with the empty line that ends it.

    It hands out all bytes that come. `kept`: bytes of an event that is not whole yet.
    """

    def __init__(self) -> None:
        self.kept = 0
        self._parts: list[bytes] = []
        self._last = b""

    def feed(self, part: bytes) -> list[bytes]:
        """Return the events that are whole with this part."""
        if self.kept:
            if not _has_end(self._last + part) and self.kept + len(part) <= LONGEST:
                self._keep(part)
                return []
            part = self.flush() + part
        *events, rest = _split(part)
        if len(rest) > LONGEST:
            events.append(rest)
        elif rest:
            self._keep(rest)
        return events

    def flush(self) -> bytes:
        """Return what is kept, and keep nothing."""
        rest = b"".join(self._parts)
        self._parts.clear()
        self.kept, self._last = 0, b""
        return rest

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self.kept += len(part)
        self._last = (self._last + part[-_BEFORE:])[-_BEFORE:]


def data_of(event: bytes) -> bytes | None:
    """Return the data of an event, its lines joined; None if it has none, as a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line[:5] == b"data:"]
    return b"\n".join(lines) if lines else None


def ends_line(sent: bytes) -> bool:
    """Return whether bytes of a stream end with the end of a line."""
    return sent.endswith((b"\n", b"\r"))


def ends_event(sent: bytes) -> bool:
    """Return whether bytes of a stream end with the end of an event."""
    return sent.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


def _has_end(data: bytes) -> bool:
    return b"\n\n" in data or (b"\r" in data and _END.search(data) is not None)


def _split(data: bytes) -> list[bytes]:
    """Return the events in some bytes, and what is behind the last of them."""
    if b"\r" not in data:
        *events, rest = data.split(b"\n\n")
        return [*[event + b"\n\n" for event in events], rest]
    at, events = 0, []
    for found in _END.finditer(data):
        events.append(data[at : found.end()])
        at = found.end()
    return [*events, data[at:]]
