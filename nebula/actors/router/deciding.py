"""What a router is to append now: what the state calls for, and what it has seen beside it. Pure.

A state is decided upon once. What is seen is looked at when that is asked for, and once more after
it has led to a decision: only the most urgent kind is decided at a time.
"""

from collections.abc import Callable, Mapping

from nebula.actors.placement.decision import Decider, Decision
from nebula.actors.router.loss import LOST_AFTER
from nebula.actors.router.observation import decide_observed
from nebula.actors.router.observing import Load, Observer
from nebula.events.state import State


class Deciding:
    """See the module. `loads` gives the router's own lines; `lost_after` in seconds, 0: never."""

    def __init__(
        self,
        observer: Observer,
        loads: Callable[[], Mapping[str, Load]],
        lost_after: float = LOST_AFTER,
    ) -> None:
        self._observer = observer
        self._loads = loads
        self._lost_after = lost_after
        self._decider = Decider()
        self._decided: State | None = None
        self._looks = self._again = False

    def look(self) -> None:
        """Ask for a look at what has been seen, with the next decision."""
        self._looks = True

    def due(self, state: State, *, connected: bool) -> tuple[Decision, ...]:
        """Give what is to be appended together; nothing until there is another state, or a look.

        Who is not `connected` to NATS sees nothing, and concludes nothing from that.
        """
        while True:
            due = self._observed(state, connected)
            if not due and state is not self._decided:
                due, self._decided = self.decide(state), state
            if due:
                self._decided = None  # should it not be appended, it is due again
                return due
            if not self._again:
                return ()
            self._again, self._looks = False, True

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Give what the state calls for."""
        return self._decider.decide(state)

    def _observed(self, state: State, connected: bool) -> tuple[Decision, ...]:
        if not self._looks:
            return ()
        self._looks = False
        if not connected:
            return ()
        seen = self._observer.observe(state, self._loads())
        due = decide_observed(state, seen, lost_after=self._lost_after)
        self._again = bool(due)
        return due
