"""What a node counts of its engines. Pure."""

from nebula.metrics.counting import Counter, Histogram, Series
from nebula.metrics.metric import OTHER, START

REPLICAS = 2000
"""Replicas that are counted apart."""


class EngineCounts:
    """What one node has counted since its start."""

    def __init__(self) -> None:
        self.starts: Series[Counter] = Series(Counter, REPLICAS, lambda _: (OTHER, OTHER))
        self.failures: Series[Counter] = Series(Counter, REPLICAS, lambda _: (OTHER, OTHER))
        self.took: Series[Histogram] = Series(
            lambda: Histogram(START), REPLICAS, lambda _: (OTHER,)
        )

    def started(self, model: str, replica: str) -> None:
        """Count the start of an engine."""
        self.starts.get((model, replica)).add()

    def failed(self, replica: str) -> None:
        """Count an engine that has ended by itself."""
        self.failures.get((replica.rpartition("-")[0], replica)).add()

    def ready(self, model: str, took: float) -> None:
        """Count a start that took some seconds until the engine takes requests."""
        self.took.get((model,)).observe(took)
