"""Every metric that Nebula emits. Pure.

An actor emits nothing but what stands here. The reference and the tests are made from this table.
"""

from nebula.metrics.metric import ACTORS, OWN, ActorKind, Metric
from nebula.metrics.of_gateways import GATEWAY
from nebula.metrics.of_nodes import NODE
from nebula.metrics.of_routers import ROUTER

ALL: tuple[Metric, ...] = (
    Metric(
        "nebula_build_info", "gauge", "Always 1: which version runs.", ACTORS, ("actor", "version")
    ),
    Metric("nebula_nats_connected", "gauge", "Whether NATS is reachable: 1 or 0.", ACTORS),
    Metric("nebula_nats_reconnects_total", "counter", "Times that NATS came back.", ACTORS),
    Metric(
        "nebula_folded_sequence", "gauge", "Sequence of the last event that it has folded.", ACTORS
    ),
    Metric(
        "nebula_log_sequence",
        "gauge",
        "Sequence of the log's last event; missing while the log does not answer.",
        ACTORS,
    ),
    Metric(
        "nebula_fold_lag_events",
        "gauge",
        "Events of the log that it has not folded yet; missing while the log does not answer.",
        ACTORS,
    ),
    Metric("nebula_event_age_seconds", "gauge", "Age of the last folded event.", ACTORS),
)
"""Those of all actors."""

TABLE: tuple[Metric, ...] = (*ALL, *GATEWAY, *ROUTER, *NODE)
"""All metrics. Beside them an actor emits `process_…` about its process."""


def rows(actor: ActorKind, path: str = OWN) -> tuple[Metric, ...]:
    """Return the metrics that an actor emits at a path."""
    return tuple(each for each in TABLE if actor in each.actors and each.path == path)
