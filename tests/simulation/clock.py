"""Virtual time: a queue of what happens next, and tasks written as generators. Nothing else runs.

A task yields what it waits for: a number of seconds, a Signal, or (Signal, seconds at most); a
wait for a signal gives whether it came in time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any, TypeAlias

Wait: TypeAlias = "float | Signal | tuple[Signal, float]"
Work: TypeAlias = Generator[Any, Any, Any]


class Clock:
    """What happens, in the order of its time; what happens at one time, in the order it was put."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, what: Callable[..., None], *given: Any) -> None:
        """Have something happen in so many seconds."""
        self.at(self.now + seconds, what, *given)

    def at(self, time: float, what: Callable[..., None], *given: Any) -> None:
        """Have something happen at a time."""
        self._count += 1
        heappush(self._queue, (time, self._count, what, given))

    def step(self) -> bool:
        """Do what comes next; False if nothing does."""
        if not self._queue:
            return False
        self.now, _, what, given = heappop(self._queue)
        self.steps += 1
        what(*given)
        return True

    def run(self, until: float) -> None:
        """Do all that comes up to a time."""
        while self._queue and self._queue[0][0] <= until:
            self.step()
        self.now = max(self.now, until)


class Signal:
    """Something to wait for. It wakes all tasks that wait at that moment, and no later ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[Task, int]] = []

    def fire(self) -> None:
        """Wake all waiting tasks."""
        waiting, self._waiting = self._waiting, []
        for task, wait in waiting:
            self._clock.after(0, task.wake, wait, True)

    def add(self, task: Task, wait: int) -> None:
        """Let a task wait."""
        self._waiting.append((task, wait))


class Task:
    """One generator on its way."""

    def __init__(self, clock: Clock, work: Work) -> None:
        self._clock = clock
        self._work = work
        self._wait = 0
        self.done = False
        clock.after(0, self.wake, 0, None)

    def wake(self, wait: int, given: Any) -> None:
        """Go on, unless what wakes is not what it waits for any more."""
        if self.done or wait != self._wait:
            return
        self._wait += 1
        try:
            wanted = self._work.send(given)
        except StopIteration:
            self.done = True
            return
        if isinstance(wanted, Signal):
            wanted.add(self, self._wait)
        elif isinstance(wanted, tuple):
            signal, seconds = wanted
            signal.add(self, self._wait)
            self._clock.after(seconds, self.wake, self._wait, False)
        else:
            self._clock.after(wanted, self.wake, self._wait, None)

    def cancel(self) -> None:
        """End it where it is."""
        if not self.done:
            self.done = True
            self._work.close()


class Process:
    """Something that may crash: its tasks end with it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.alive = True
        self._tasks: list[Task] = []

    def spawn(self, work: Work) -> Task:
        """Run a task until it ends or the process does."""
        if len(self._tasks) > 32:
            self._tasks = [task for task in self._tasks if not task.done]
        task = Task(self.clock, work)
        self._tasks.append(task)
        return task

    def crash(self) -> None:
        """End at once, in the middle of whatever is under way."""
        self.alive = False
        for task in self._tasks:
            task.cancel()
