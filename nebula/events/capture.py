"""One capture in the state of the cluster, and when an event about it does not count. Pure."""

import zlib
from collections.abc import Iterable, Mapping

from msgspec import Struct

from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.key import Key

MOST = 16
"""Captures at a time, those of which the time is over not counted."""


class Capture(Struct, frozen=True, gc=False):
    """One capture. Times are in ns since the epoch. `by`: the principal that started it."""

    id: str
    rule: CaptureStarted
    started_ns: int
    until_ns: int
    by: str = ""

    def matches(self, request: str, model: str, key: str, tenant: str) -> bool:
        """Return whether it captures a request, by its id, which decides about the share."""
        rule = self.rule
        return (
            rule.model in ("", model)
            and rule.key_id in ("", key)
            and rule.tenant in ("", tenant)
            and zlib.crc32(request.encode()) < rule.share * 2**32
        )


def running(captures: Iterable[Capture], now: int) -> tuple[Capture, ...]:
    """Return the captures that are not over at a time (ns since the epoch), the oldest first."""
    found = [each for each in captures if now < each.until_ns]
    return tuple(sorted(found, key=lambda each: (each.started_ns, each.id)))


def capture_objection(
    captures: Mapping[str, Capture],
    keys: Mapping[str, Key],
    models: Mapping[str, object],
    now: int,
    identity: str,
    event: CaptureStarted | CaptureStopped,
) -> str | None:
    """Return why an event about a capture does not count; None if it does."""
    if isinstance(event, CaptureStopped):
        return None if identity in captures else f"there is no capture {identity!r}"
    known = captures.get(identity)
    if known is not None and now < known.until_ns:
        return f"id: capture {identity!r} is already running"
    if not (event.model or event.key_id or event.tenant):
        return "model: name a model, a key or a tenant whose requests are captured"
    if event.model and event.model not in models:
        return f"model: there is no model {event.model!r}"
    if event.key_id and event.key_id not in keys:
        return f"key_id: there is no key {event.key_id!r}"
    if len(running(captures.values(), now)) >= MOST:
        return f"there are {MOST} captures already: stop one"
    return None
