"""One batch in the state of the cluster. Pure."""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events.batch_facts import Problem
from nebula.events.intents import BatchRequested
from nebula.events.key import OF_KEY

BatchPhase: TypeAlias = Literal[
    "validating", "in_progress", "cancelling", "completed", "failed", "expired", "cancelled"
]
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})


class Batch(Struct, frozen=True, gc=False, kw_only=True):
    """A file of requests that is worked off, or was.

    `lines`: how many requests its input has, once it is known to be valid; `completed` and `failed`
    say how many have an answer, and `output` and `errors` are the files with them once it is over.
    Its times are in ns since the epoch, 0 if there is none.
    """

    id: str
    request: BatchRequested
    phase: BatchPhase = "validating"
    lines: int = 0
    completed: int = 0
    failed: int = 0
    output: str = ""
    errors: str = ""
    problems: tuple[Problem, ...] = ()
    created_ns: int = 0
    started_ns: int = 0
    cancelling_ns: int = 0
    finished_ns: int = 0
    changed: int = 0

    @property
    def key(self) -> str:
        """The id of the API key that asked for it; "" if another asked."""
        owner = self.request.owner
        return owner.removeprefix(OF_KEY) if owner.startswith(OF_KEY) else ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase in _OVER

    @property
    def ending(self) -> bool:
        """Whether it has ended, or is asked to."""
        return self.over or self.phase == "cancelling"

    @property
    def expires_ns(self) -> int:
        """When its time is over, in ns since the epoch."""
        return self.created_ns + int(self.request.window * 1e9)
