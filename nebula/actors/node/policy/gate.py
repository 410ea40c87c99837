"""Asks a node's policy about what it is to start or load, with the links on its disk resolved."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from nebula.actors.node.policy.rules import (
    NodePolicy,
    Refusal,
    refusal,
    settings_refusal,
    source_refusal,
    sources_of,
)
from nebula.events.sources import is_folder
from nebula.events.state import Launch

PATIENCE = 10.0
"""Seconds that resolving links may take, for example on a hanging share."""


class NotAllowed(Exception):
    """The policy of this node does not allow it."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(str(why))
        self.why = why


class Gate:
    """A node's policy, as the node asks it."""

    def __init__(self, policy: NodePolicy) -> None:
        self.policy = policy

    def withholds(self, launch: Launch) -> bool:
        """Return whether an engine is refused whatever is on the disk, so that nothing is fetched.

        Whether a folder is allowed depends on the links in it.
        """
        if settings_refusal(self.policy, launch) is not None:
            return True
        return (
            not is_folder(launch.source) and source_refusal(self.policy, launch.source) is not None
        )

    async def admit(self, launch: Launch) -> None:
        """Raise NotAllowed if an engine must not be started so."""
        real = await _real(sources_of(launch))
        if (why := refusal(self.policy, launch, real)) is not None:
            raise NotAllowed(why)

    async def admit_source(self, source: str) -> None:
        """Raise NotAllowed if a model or an adapter must not come from there."""
        real = await _real((source,))
        if (why := source_refusal(self.policy, source, real.get(source, ""))) is not None:
            raise NotAllowed(why)


async def _real(sources: Iterable[str]) -> dict[str, str]:
    """Return the paths without links of those sources that are folders of this node."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(_resolved, tuple(sources))
    except TimeoutError:
        return {}


def _resolved(sources: Iterable[str]) -> dict[str, str]:
    return {
        source: os.path.realpath(source)
        for source in sources
        if "://" not in source and (is_folder(source) or Path(source).exists())
    }
