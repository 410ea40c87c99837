"""Converts old forms of events as they are read; the log itself is never rewritten.

A type's version grows only when its payload changes in a way that an older reader, or a newer one
with defaults, would misread. A message has its version in a header; without the header it is 1, so
that events that were published by hand keep their meaning.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

Payload: TypeAlias = dict[str, object]
Step: TypeAlias = Callable[[Payload], Payload]


def _engine_started_1(payload: Payload) -> Payload:
    """`version` was the plan's, which could be mistaken for the event's own."""
    if "plan" in payload or "version" not in payload:
        return payload
    renamed = {key: value for key, value in payload.items() if key != "version"}
    return {**renamed, "plan": payload["version"]}


STEPS: Mapping[str, tuple[Step, ...]] = {"EngineStarted": (_engine_started_1,)}
"""For each changed type: the steps from version 1 to 2, from 2 to 3, and so on."""


def version_of(name: str) -> int:
    """Return the present version of a type of event."""
    return len(STEPS.get(name, ())) + 1


def upcast(name: str, version: int, payload: Payload) -> Payload:
    """Return the payload in the form of the present version."""
    for step in STEPS.get(name, ())[version - 1 :]:
        payload = step(payload)
    return payload
