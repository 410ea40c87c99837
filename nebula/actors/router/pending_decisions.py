"""The decisions that a router appends now: from the state, and from what it has seen. Pure.

What was seen is considered first, but only on request (`look`); then the state, once for each
state. If what was seen led to a decision, it is considered once more, since only the most urgent
kind is decided at a time.
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
        self._look_due = self._look_again = False

    def look(self) -> None:
        """Let the next decision consider what was seen."""
        self._look_due = True

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
            if not self._look_again:
                return ()
            self._look_again, self._look_due = False, True

    def quiet(self, state: State) -> bool:
        """Return whether it is known that nothing follows from a state."""
        return state is self._decided

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Return the decisions that follow from the state."""
        return self._decider.decide(state)

    def _observed(self, state: State, connected: bool) -> tuple[Decision, ...]:
        if not self._look_due:
            return ()
        self._look_due = False
        if not connected:
            return ()
        seen = self._observer.observe(state, self._loads())
        due = decide_lifecycle(state, seen, lost_after=self._lost_after)
        self._look_again = bool(due)
        return due
