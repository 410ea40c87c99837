"""What a router counts of the requests that it sends on and refuses. Pure."""

from typing import Literal, TypeAlias

from nebula.actors.router.demand import Demand
from nebula.metrics.counting import Counter, Histogram, Series
from nebula.metrics.metric import OTHER, WAIT

MODELS = 2000
"""Models that are counted apart."""

Reason: TypeAlias = Literal["queue-full", "waited-too-long", "no-place", "moved-on", "hopeless"]
"""Why a router refuses a request; `hopeless`: no replica can come."""


class RouterCounts:
    """What one router has counted since its start."""

    def __init__(self) -> None:
        self.waits: Series[Histogram] = Series(lambda: Histogram(WAIT), MODELS, lambda _: (OTHER,))
        self.demand = Demand()
        self.refusals: Series[Counter] = Series(Counter, MODELS, lambda key: (OTHER, key[1]))

    def sent(self, model: str, waited: float) -> None:
        """Count a request that went to an engine after it has waited for some seconds."""
        self.waits.get((model,)).observe(waited)

    def went_directly(self, model: str, number: int) -> None:
        """Count requests that gateways sent to engines themselves, without a wait."""
        self.waits.get((model,)).observe(0.0, number)

    def refused(self, model: str, reason: Reason, *, slack: bool) -> None:
        """Count a request that was refused; `slack`: it takes spare capacity, and is sent again."""
        self.refusals.get((model, reason)).add()
        if not slack and reason != "moved-on":  # its gateway sends it where the model is now
            self.demand.refused(model, reason)
