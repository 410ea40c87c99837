"""The cluster version: by which rules a log is read, and what may stand in it. Pure.

It stands in the log itself, so that what an event means never depends on who folds it. Version 0 is
what Nebula did before there was one. It is raised by one, once all routers and nodes know the next.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nebula.events.state import State
from nebula.events.vocabulary import Event

VERSION = 1
"""The newest cluster version that this Nebula knows."""

SIZES = 1
"""The version from which intents are bounded in size."""

SINCE: Mapping[tuple[str, str], int] = {}
"""Since which version there is a field, or with "" for it a type of event; what is older is not
here. Whatever is added to an intent, and whatever older routers would decide otherwise upon, is."""


def too_new(state: State) -> str | None:
    """Return why this Nebula must not act upon a log; None where it may."""
    version = state.cluster.version
    if version <= VERSION:
        return None
    return (
        f"this cluster goes by version {version}, and this Nebula knows up to {VERSION}: "
        "it would read the log otherwise than the others; run the version that they run"
    )


def premature(state: State, event: Event, since: Mapping[tuple[str, str], int]) -> str | None:
    """Return why an event can't count yet: not all of the cluster would understand it."""
    version = state.cluster.version
    for what, needed in _needs(event, since):
        if needed > version:
            return (
                f"{what} needs cluster version {needed}, and this cluster goes by {version} until "
                "all of its routers and nodes run a Nebula that knows it"
            )
    return None


def behind(state: State, version: int) -> list[str]:
    """Return the nodes that are not lost and do not know a version."""
    return [
        identity
        for identity, node in sorted(state.nodes.items())
        if not node.lost and node.reads < version
    ]


def _needs(event: Event, since: Mapping[tuple[str, str], int]) -> Iterator[tuple[str, int]]:
    name = type(event).__name__
    if (name, "") in since:
        yield name, since[name, ""]
    for (kind, field), needed in since.items():
        if kind == name and field:
            kind_of: Any = type(event)
            if getattr(event, field) != getattr(kind_of(*_required(event)), field):
                yield f"{field}: it", needed


def _required(event: Event) -> list[object]:
    fields = event.__struct_fields__
    without = len(fields) - len(event.__struct_defaults__)
    return [getattr(event, field) for field in fields[:without]]
