"""Counters and histograms of one thread: cheaper to count with than those of the library. Pure."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Histogram:
    """Observations by bucket. `bounds`: the upper bounds, in order; the last bucket has none."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count an observation, or several that are equal."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """The number of observations up to each bound, as Prometheus writes it."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            so_far += count
            found.append(("+Inf" if bound == float("inf") else repr(float(bound)), so_far))
        return found


class Series(Generic[T]):
    """What is counted by the values of labels, `most` of them; those beyond share one.

    `new`: makes what counts. `beyond`: the values that stand for all others.
    """

    def __init__(
        self,
        new: Callable[[], T],
        most: int,
        beyond: Callable[[tuple[str, ...]], tuple[str, ...]],
    ) -> None:
        self._new = new
        self._most = most
        self._beyond = beyond
        self.known: dict[tuple[str, ...], T] = {}

    @property
    def full(self) -> bool:
        """Whether further values share one series."""
        return len(self.known) >= self._most

    def get(self, labels: tuple[str, ...]) -> T:
        """Return what counts for these values."""
        found = self.known.get(labels)
        return self._add(labels) if found is None else found

    def _add(self, labels: tuple[str, ...]) -> T:
        if self.full:
            labels = self._beyond(labels)
            if labels in self.known:
                return self.known[labels]
        found = self.known[labels] = self._new()
        return found

    def keep(self, wanted: Callable[[tuple[str, ...]], bool]) -> None:
        """Make room where it is full: forget the series that are not `wanted` any more."""
        if self.full:
            self.known = {labels: each for labels, each in self.known.items() if wanted(labels)}


class Counter:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count."""
        self.value += amount
