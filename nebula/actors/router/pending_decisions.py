"""The decisions that a router appends now: from the state, and from what it has seen. Pure.

Each state is decided upon once. What was seen is considered on request, and again after it has led
to a decision, since only the most urgent kind is decided at a time.
"""

from collections.abc import Callable, Mapping

from nebula.actors.placement.decision import Decider, Decision
from nebula.actors.router.lifecycle import decide_lifecycle
from nebula.actors.router.loss import LOST_AFTER
from nebula.actors.router.observer import ModelLoad, Observer
from nebula.events.state import State


class PendingDecisions:
    """Collects due decisions. `loads` has the router's queues; `lost_after`: seconds, 0: never."""

    def __init__(
        self,
        observer: Observer,
        loads: Callable[[], Mapping[str, ModelLoad]],
        lost_after: float = LOST_AFTER,
    ) -> None:
        self._observer = observer
        self._loads = loads
        self._lost_after = lost_after
        self._decider = Decider()
        self._decided: State | None = None
        self._looks = self._again = False

    def look(self) -> None:
        """Let the next decision consider what was seen."""
        self._looks = True

    def due(self, state: State, *, connected: bool) -> tuple[Decision, ...]:
        """Return the decisions to append together; none until the state changes or a look is due.

        A router that is not `connected` to NATS sees nothing, and must not conclude anything from
        that.
        """
        while True:
            due = self._observed(state, connected)
            if not due and state is not self._decided:
                due, self._decided = self.decide(state), state
            if due:
                self._decided = None  # if it is not appended, it is due again
                return due
            if not self._again:
                return ()
            self._again, self._looks = False, True

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Return the decisions that follow from the state."""
        return self._decider.decide(state)

    def _observed(self, state: State, connected: bool) -> tuple[Decision, ...]:
        if not self._looks:
            return ()
        self._looks = False
        if not connected:
            return ()
        seen = self._observer.observe(state, self._loads())
        due = decide_lifecycle(state, seen, lost_after=self._lost_after)
        self._again = bool(due)
        return due
