"""Old shapes of events, brought up to date as they are read; the log itself is never rewritten.

A type's version grows only when its payload changes in a way that an older reader, or a newer one
with defaults, would get wrong. A message says its version in a header; without one it is 1, so
that what was published by hand stays what it was.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

Payload: TypeAlias = dict[str, object]
Step: TypeAlias = Callable[[Payload], Payload]


def _engine_started_1(payload: Payload) -> Payload:
    """`version` was the plan's, which nobody could tell from the event's own."""
    if "plan" in payload or "version" not in payload:
        return payload
    renamed = {key: value for key, value in payload.items() if key != "version"}
    return {**renamed, "plan": payload["version"]}


STEPS: Mapping[str, tuple[Step, ...]] = {"EngineStarted": (_engine_started_1,)}
"""For each type that ever changed: what leads from version 1 to 2, from 2 to 3, and so on."""


def version_of(name: str) -> int:
    """Give the version in which a type of event is written today."""
    return len(STEPS.get(name, ())) + 1


def upcast(name: str, version: int, payload: Payload) -> Payload:
    """Give the payload as today's version would have written it."""
    for step in STEPS.get(name, ())[version - 1 :]:
        payload = step(payload)
    return payload
