"""The way of each machine to NATS: it takes time, may lose what travels on it, or be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from tests.simulation.clock import Clock


class Link:
    """One machine's connection. What is under way when it is cut is lost."""

    def __init__(self, clock: Clock, rng: Random, *, slow: float = 0.0) -> None:
        self.clock = clock
        self._rng = rng
        self._slow = slow
        self._cuts = 0
        self.loss = 0.0
        self._clear = clock.now
        self._stalled = 0.0
        self._unheard: Counter[str] = Counter()
        self._waiting: list[Callable[[], None]] = []

    @property
    def up(self) -> bool:
        """Whether anything gets through."""
        return self._cuts == 0

    def delay(self) -> float:
        """Draw how long (s) one message takes: some milliseconds, rarely up to a second."""
        draw = self._rng.random()
        usual = 0.001 + 0.004 * draw if draw < 0.97 else (draw - 0.97) * 30
        return max(0.0, self._stalled - self.clock.now) + self._slow * draw + usual

    def loses(self) -> bool:
        """Draw whether one message is lost, or its acknowledgement."""
        return self._cuts > 0 or (self.loss > 0 and self._rng.random() < self.loss)

    def cut(self, seconds: float) -> None:
        """Let nothing through for a while; cuts may overlap."""
        self._cuts += 1
        self.clock.after(seconds, self._mend)

    def stall(self, seconds: float) -> None:
        """Keep what is sent back for a while: it arrives then, and nothing is lost."""
        self._stalled = max(self._stalled, self.clock.now + seconds)
        self._clear = max(self._clear, self._stalled)

    @property
    def clear(self) -> float:
        """For how long (s) nothing was cut or lost on it."""
        known = self.up and not self.loss
        return max(0.0, self.clock.now - self._clear) if known else 0.0

    def hide(self, router: str, seconds: float) -> None:
        """Let a router not hear what is told to all over this link, though both reach NATS."""
        self._unheard[router] += 1
        self.clock.after(seconds, self._show, router)

    def _show(self, router: str) -> None:
        self._unheard[router] -= 1

    def hides(self, router: str) -> bool:
        """Return whether a router does not hear broadcasts over this link."""
        return self._unheard[router] > 0

    def _mend(self) -> None:
        self._cuts -= 1
        if self.up:
            self._clear = max(self._stalled, self.clock.now)
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                resume()

    def when_back(self, resume: Callable[[], None]) -> None:
        """Have something called once the cut is mended."""
        self._waiting.append(resume)

    def heal(self) -> None:
        """Lose nothing more from now on."""
        if self.loss:
            self._clear = max(self._stalled, self.clock.now)
        self.loss = 0.0
