"""The map of a node's engines, and the actions that follow from it, without processes. Pure.

The node, and the simulated node of tests, report to it what they do and see. Times are seconds of
one monotonic clock.
"""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Generic, TypeVar

from nebula.actors.node import reconciliation
from nebula.actors.node.reconciliation import Action, Restarts, Running, Start
from nebula.events.state import Replica, State
from nebula.events.vocabulary import EngineFailed, EngineStarted


class EngineEntry:
    """One replica's engine, from the decision to start it until it is completely gone.

    `told`: the log has it as running. `last_seq`: the event that caused its present action.
    `killed`: the event that asked to kill it; 0 if none did.
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
        self.took: float | None = None
        self.stop_reason: str | None = None
        self.over = False
        self.killed = 0

    @property
    def running(self) -> Running:
        """Return the engine as reconciliation sees it."""
        return Running(
            self.replica,
            self.version,
            self.devices,
            self.ready,
            self.stop_reason is not None,
            self.told,
            bool(self.killed),
        )

    def started(
        self, pid: int, created: float, port: int, log_file: str, birth: str = ""
    ) -> EngineStarted:
        """Return the event that reports its process; `birth` as from `identity.birth`."""
        version, attempt = self.version, self.attempt
        return EngineStarted(pid, created, port, log_file, version, attempt, birth=birth)

    def has_told(self, seq: int) -> None:
        """Note that the log has at `seq` that its process runs; 0 if it never will."""
        self.noted(seq)
        # An engine that has ended meanwhile does not run, whatever is reported late.
        self.told = seq > 0 and not self.over

    def noted(self, seq: int) -> None:
        """Note that the log has at `seq` this engine's last event; 0 if it never will."""
        self.last_seq = seq or self.last_seq

    def answers(self, now: float, took: float | None = None) -> None:
        """Note that it serves; `took`: seconds of its start, if known."""
        self.ready, self.ready_since, self.took = True, now, took

    def stop(self, reason: str) -> bool:
        """Note that it is to end; return False if it was already."""
        if self.stop_reason is not None:
            return False
        self.stop_reason = reason
        return True

    def kill(self, seq: int) -> str:
        """Note that an event asks to kill it, which then causes its end; return the reason."""
        self.killed = self.last_seq = seq
        return f"killed with SIGKILL, as event {seq} asked"

    def ended(self) -> bool:
        """Note that its process has ended; return whether it was to end."""
        self.ready = self.told = False
        self.over = True
        return self.stop_reason is not None


E = TypeVar("E", bound=EngineEntry)


class EngineTable(Generic[E]):
    """The map of a node's engines."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts
        self._entries: dict[str, E] = {}
        self._retry_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._failures: dict[str, tuple[int, int]] = {}
        """By replica: its version, and its failures in a row, those of ready engines included. They
        set the pause."""
        self._adapting: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._entries.values()))

    def get(self, replica: str) -> E | None:
        """Return a replica's engine, if there is one."""
        return self._entries.get(replica)

    def due(
        self, state: State, replicas: Sequence[Replica], now: float, waiting: Set[str] = frozenset()
    ) -> tuple[Action, ...]:
        """Return the actions for these replicas, which are all of this node's."""
        if self._failures:
            versions = {each.id: each.version for each in replicas}
            failures = self._failures.items()
            self._failures = {key: row for key, row in failures if versions.get(key) == row[0]}
        running = {each.replica: each.running for each in self._entries.values()}
        actions = reconciliation.reconcile(state, replicas, running, self._retry_at, now, waiting)
        return tuple(self._counted(action) for action in actions)

    def _counted(self, action: Action) -> Action:
        """Return a start with its number, counting failures that the log does not have yet."""
        if isinstance(action, Start) and (failures := self._untold.get(action.replica)) is not None:
            return Start(action.replica, failures + 1)
        return action

    def open(self, entry: E) -> None:
        """Add an engine that is to be started."""
        self._retry_at.pop(entry.replica, None)
        self._entries[entry.replica] = entry

    def adopt(
        self, entry: E, *, ready: bool, now: float, served: float = 0.0, took: float | None = None
    ) -> None:
        """Add an engine that an earlier process of this node has started.

        `served`: seconds for which it was ready, at least; `took`: seconds of its start, at most.
        """
        entry.told, entry.ready, entry.took = True, ready, took
        entry.ready_since = now - served if ready else None
        self._entries[entry.replica] = entry

    def failed(
        self,
        entry: E,
        code: int | None,
        reason: str,
        lines: tuple[str, ...],
        now: float,
        *,
        again: bool = True,
    ) -> EngineFailed:
        """Return the event for an engine that has ended by itself, and schedule its next start.

        `again`: False if another start can't succeed. Until `has_told_failure`, the log does not
        have the event and only this table knows it.
        """
        restarts, attempt = self._restarts, entry.attempt
        version, row = self._failures.get(entry.replica, (entry.version, attempt - 1))
        if version != entry.version:
            row = 0
        if entry.ready_since is not None:
            attempt = 1
            if now - entry.ready_since >= restarts.settles(entry.took):
                row = 0
        self._failures[entry.replica] = (entry.version, row + 1)
        pause = restarts.after(row + 1) if again and not restarts.gives_up(attempt) else None
        if pause is None:
            del self._failures[entry.replica]
        self._untold[entry.replica] = attempt
        self._retry_at[entry.replica] = math.inf if pause is None else now + pause
        return EngineFailed(reason, code, lines, attempt, pause)

    def has_told_failure(self, failed: EngineFailed, replica: str) -> None:
        """Note that the log has a failure: from now on the log decides how it continues."""
        if self._untold.get(replica) == failed.attempt:
            del self._untold[replica]
        if failed.retry_in is None and self._retry_at.get(replica) == math.inf:
            del self._retry_at[replica]

    def close(self, entry: E) -> None:
        """Forget an engine that is completely gone."""
        del self._entries[entry.replica]

    @property
    def adapting(self) -> bool:
        """Whether an adapter of any replica is being changed."""
        return bool(self._adapting)

    def adapts(self, replica: str) -> bool:
        """Note that an adapter of a replica is being changed; return False if one already is."""
        if replica in self._adapting:
            return False
        self._adapting.add(replica)
        return True

    def adapted(self, replica: str) -> None:
        """Note that the change has ended."""
        self._adapting.discard(replica)

    def pause(self, looked: float, now: float, others: Iterable[float] = ()) -> float | None:
        """Return the seconds until the next start, or the next of `others`, becomes due.

        Return None if there is none.
        """
        later = [at for at in (*self._retry_at.values(), *others) if looked < at < math.inf]
        return max(0.0, min(later) - now) + 0.01 if later else None


def service(replica: Replica, now: float) -> tuple[float, float]:
    """Return how long a ready replica has served at least, and its start took at most, in seconds.

    Both are from the log; `now` is seconds since the epoch, by a clock near the log's.
    """
    ready = replica.since / 1e9
    started = replica.engine.started / 1e9 if replica.engine is not None else ready
    return max(0.0, now - ready), max(0.0, ready - started)
