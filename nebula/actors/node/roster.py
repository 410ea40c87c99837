"""The one map of a node's engines, and what follows from it; the processes are others'. Pure.

A node, and the one of the simulation, tell it what they do and see; times are seconds of one
monotonic clock.
"""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Generic, TypeVar

from nebula.actors.node import reconciliation
from nebula.actors.node.reconciliation import Action, Restarts, Running, Start
from nebula.events.state import Replica, State
from nebula.events.vocabulary import EngineFailed, EngineStarted


class Entry:
    """One replica's engine, from the decision to start it until all of it is gone.

    `told`: the log has it as running. `last_seq`: the event that caused what it does now.
    """

    def __init__(self, replica: Replica, version: int, attempt: int) -> None:
        self.replica = replica.id
        self.devices = replica.devices
        self.source = replica.launch.source if replica.launch is not None else ""
        self.version = version
        self.attempt = attempt
        self.last_seq: int | None = replica.changed
        self.told = False
        self.ready = False
        self.ready_since: float | None = None
        self.stop_reason: str | None = None
        self.over = False

    @property
    def running(self) -> Running:
        """Give what reconciling looks at."""
        return Running(
            self.replica,
            self.version,
            self.devices,
            self.ready,
            self.stop_reason is not None,
            self.told,
        )

    def started(
        self, pid: int, created: float, port: int, log_file: str, birth: str = ""
    ) -> EngineStarted:
        """Return what to tell of its process; `birth` as `identity.birth` has it."""
        version, attempt = self.version, self.attempt
        return EngineStarted(pid, created, port, log_file, version, attempt, birth=birth)

    def has_told(self, seq: int) -> None:
        """Note that the log has, at `seq`, that its process runs; 0 where it never will."""
        self.noted(seq)
        # One that has ended meanwhile runs no more, whatever is told late.
        self.told = seq > 0 and not self.over

    def noted(self, seq: int) -> None:
        """Note that the log has, at `seq`, what this engine did last; 0 where it never will."""
        self.last_seq = seq or self.last_seq

    def answers(self, now: float) -> None:
        """Note that it serves."""
        self.ready, self.ready_since = True, now

    def stop(self, reason: str) -> bool:
        """Note that it is to end; False where it was before."""
        if self.stop_reason is not None:
            return False
        self.stop_reason = reason
        return True

    def ended(self) -> bool:
        """Note that its process has ended; True where it was to."""
        self.ready = self.told = False
        self.over = True
        return self.stop_reason is not None


E = TypeVar("E", bound=Entry)


class Roster(Generic[E]):
    """See the module."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts
        self._entries: dict[str, E] = {}
        self._retry_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._adapting: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._entries.values()))

    def get(self, replica: str) -> E | None:
        """Give a replica's engine, where there is one."""
        return self._entries.get(replica)

    def due(
        self, state: State, replicas: Sequence[Replica], now: float, waiting: Set[str] = frozenset()
    ) -> tuple[Action, ...]:
        """Give what is to be done about these replicas, all that are this node's."""
        running = {each.replica: each.running for each in self._entries.values()}
        actions = reconciliation.reconcile(state, replicas, running, self._retry_at, now, waiting)
        return tuple(self._counted(action) for action in actions)

    def _counted(self, action: Action) -> Action:
        """Return a start with the number that it has when failures count that the log lacks."""
        if isinstance(action, Start) and (failures := self._untold.get(action.replica)) is not None:
            return Start(action.replica, failures + 1)
        return action

    def open(self, entry: E) -> None:
        """Take in an engine that is to be started."""
        self._retry_at.pop(entry.replica, None)
        self._entries[entry.replica] = entry

    def adopt(self, entry: E, *, ready: bool, now: float) -> None:
        """Take in an engine that an earlier process of this node has started."""
        entry.told, entry.ready = True, ready
        entry.ready_since = now if ready else None
        self._entries[entry.replica] = entry

    def failed(
        self, entry: E, code: int | None, reason: str, lines: tuple[str, ...], now: float
    ) -> EngineFailed:
        """Return what to tell of an engine that has ended by itself, and see to its next start.

        Until `has_told_failure` the log does not have it, and this map alone knows of it.
        """
        served = 0.0 if entry.ready_since is None else now - entry.ready_since
        attempt, pause = self._restarts.after(entry.attempt, served)
        self._untold[entry.replica] = attempt
        self._retry_at[entry.replica] = math.inf if pause is None else now + pause
        return EngineFailed(reason, code, lines, attempt, pause)

    def has_told_failure(self, failed: EngineFailed, replica: str) -> None:
        """Note that the log has a failure: from now on it is the log that says how it goes on."""
        if self._untold.get(replica) == failed.attempt:
            del self._untold[replica]
        if failed.retry_in is None and self._retry_at.get(replica) == math.inf:
            del self._retry_at[replica]

    def close(self, entry: E) -> None:
        """Forget an engine of which nothing is left."""
        del self._entries[entry.replica]

    def adapts(self, replica: str) -> bool:
        """Note that an adapter of a replica is being changed; False where one is already."""
        if replica in self._adapting:
            return False
        self._adapting.add(replica)
        return True

    def adapted(self, replica: str) -> None:
        """Note that none is any more."""
        self._adapting.discard(replica)

    def pause(self, looked: float, now: float, others: Iterable[float] = ()) -> float | None:
        """Give the seconds until a start, or one of `others`, is due that was not when it looked.

        None where none is.
        """
        later = [at for at in (*self._retry_at.values(), *others) if looked < at < math.inf]
        return max(0.0, min(later) - now) + 0.01 if later else None
