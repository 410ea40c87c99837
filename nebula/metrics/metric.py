"""What a metric is: its name, kind, labels, buckets and words, and its actors. Pure."""

from typing import Literal, TypeAlias

from msgspec import Struct

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
ActorKind: TypeAlias = Literal["gateway", "router", "node"]

ACTORS: tuple[ActorKind, ...] = ("gateway", "router", "node")

IDENTITY: dict[ActorKind, tuple[str, ...]] = {
    "gateway": (),
    "router": ("router",),
    "node": ("node",),
}
"""The labels that all metrics of an actor have, its process's included: which one it is. A gateway
is scraped itself, so that `instance` says it."""

OWN, CLUSTER, ENGINES = "/metrics", "/metrics/cluster", "/metrics/engines"
"""Where metrics are: an actor's own, those of all routers and nodes, those of engines."""

OTHER = "other"
"""The value of a label in place of values beyond its bound."""


class Metric(Struct, frozen=True):
    """One metric. `labels`: beside those of `IDENTITY`. `buckets`: upper bounds, of a histogram.

    `path`: where it is emitted. `begins`: of a counter, the values of its last labels that are 0
    before anything was counted, for each subject that its first labels name: a model or a replica.
    """

    name: str
    kind: Kind
    help: str
    actors: tuple[ActorKind, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    path: str = OWN
    begins: tuple[tuple[str, ...], ...] = ()

    def labels_of(self, actor: ActorKind) -> tuple[str, ...]:
        """Return all labels that it has where this actor emits it."""
        own = IDENTITY[actor] if self.path == OWN else ()
        return (*own, *self.labels)


DURATION = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
"""Seconds: the buckets of OpenTelemetry's `gen_ai.server.request.duration`."""

FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Seconds: the buckets of OpenTelemetry's `gen_ai.server.time_to_first_token`."""

OUTPUT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Seconds: the buckets of OpenTelemetry's `gen_ai.server.time_per_output_token`."""

WAIT = (0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds of waiting in a queue, up to the longest that a gateway waits unless told otherwise."""

START = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
"""Seconds of an engine's start."""
