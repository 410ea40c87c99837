"""A node's own place in the log, as its parts for files see and extend it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol

from nebula.actors.projection import Projection
from nebula.events.state import CachedSource, State
from nebula.events.vocabulary import Event


class Tell(Protocol):
    """Append an event, however long it takes, and return its sequence."""

    def __call__(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> Coroutine[object, object, int]:
        """`message_id`: of several events with the same id only the first is kept."""


Spawn = Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]
"""Start a task of the node, under a name."""


class OwnNode:
    """What the log says of one node, and how the node reports to it.

    `tell` appends an event; `spawn` starts a task; `wake` lets the node reconcile again.
    """

    def __init__(
        self,
        identity: str,
        projection: Projection,
        *,
        tell: Tell,
        spawn: Spawn,
        wake: Callable[[], None],
    ) -> None:
        self.id = identity
        self.projection = projection
        self.tell = tell
        self.spawn = spawn
        self.wake = wake

    @property
    def state(self) -> State:
        """The state of the cluster."""
        return self.projection.state

    @property
    def held(self) -> Mapping[str, CachedSource]:
        """The node's files, by their source."""
        node = self.state.nodes.get(self.id)
        return node.weights if node is not None else {}

    async def report(self, event: Event) -> None:
        """Append an event about the node."""
        await self.tell(self.id, event, None)
