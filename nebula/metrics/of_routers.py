"""The metrics that routers emit, beside those of all actors. Pure."""

from typing import get_args

from nebula.events.vocabulary import Decided
from nebula.metrics.metric import WAIT, ActorKind, Metric

_ROUTER: tuple[ActorKind, ...] = ("router",)

ROUTER: tuple[Metric, ...] = (
    Metric(
        "nebula_requests_waiting",
        "gauge",
        "Requests of clients that wait in this router.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_slack_requests_waiting",
        "gauge",
        "Requests that wait in this router for spare capacity, such as those of batches.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_longest_wait_seconds",
        "gauge",
        "Time for which the oldest of the clients' requests has waited in this router.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_queue_wait_seconds",
        "histogram",
        "Time that a request spent in this router before it went to an engine; 0 for those that "
        "gateways sent to engines themselves, under leases of this router.",
        _ROUTER,
        ("model",),
        WAIT,
    ),
    Metric(
        "nebula_engine_requests",
        "gauge",
        "Requests of clients in a model's engines, as this router knows; each router knows all.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_router_requests_refused_total",
        "counter",
        "Requests that this router refused. Reason: queue-full, waited-too-long, no-place, "
        "moved-on, or hopeless, where no replica can come.",
        _ROUTER,
        ("model", "reason"),
        begins=(
            ("queue-full",),
            ("waited-too-long",),
            ("no-place",),
            ("moved-on",),
            ("hopeless",),
        ),
    ),
    Metric(
        "nebula_decisions_total",
        "counter",
        "Decisions that this router has added to the log, by the event's type.",
        _ROUTER,
        ("type",),
        begins=tuple((each.__name__,) for each in get_args(Decided)),
    ),
    Metric(
        "nebula_model_placements_total",
        "counter",
        "Plans for a model that this router has added to the log.",
        _ROUTER,
        ("model",),
        begins=((),),
    ),
    Metric(
        "nebula_model_wakes_total",
        "counter",
        "Times that this router had a sleeping model started.",
        _ROUTER,
        ("model",),
        begins=((),),
    ),
    Metric(
        "nebula_model_sleeps_total",
        "counter",
        "Times that this router had an idle model ended until it is asked again.",
        _ROUTER,
        ("model",),
        begins=((),),
    ),
    Metric(
        "nebula_model_unschedulable",
        "gauge",
        "Whether replicas of a model are wanted and have no place: 1 or 0.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_model_replicas_wanted",
        "gauge",
        "Replicas that a model should have now.",
        _ROUTER,
        ("model",),
    ),
    Metric(
        "nebula_model_replicas_ready",
        "gauge",
        "Replicas of a model that take requests.",
        _ROUTER,
        ("model",),
    ),
    Metric("nebula_models", "gauge", "Number of models, by phase.", _ROUTER, ("phase",)),
    Metric(
        "nebula_nodes",
        "gauge",
        "Number of nodes, by state: ready, draining, lost or stopped.",
        _ROUTER,
        ("state",),
    ),
    Metric(
        "nebula_nodes_at_risk",
        "gauge",
        "Nodes whose loss would leave replicas without a place, as last recorded in the log.",
        _ROUTER,
    ),
    Metric(
        "nebula_models_at_risk",
        "gauge",
        "Models that the loss of some node would leave short, as last recorded in the log.",
        _ROUTER,
    ),
    Metric(
        "nebula_snapshot_age_seconds",
        "gauge",
        "Time since the event that the newest snapshot was taken at; missing before there is one.",
        _ROUTER,
    ),
    Metric(
        "nebula_snapshot_lag_events",
        "gauge",
        "Events since the newest snapshot, about as many as a start has to fold; all of them "
        "before there is one.",
        _ROUTER,
    ),
    Metric(
        "nebula_stream_up",
        "gauge",
        "Whether a stream of JetStream answers: 1 or 0.",
        _ROUTER,
        ("stream",),
    ),
    Metric("nebula_stream_messages", "gauge", "Messages in a stream.", _ROUTER, ("stream",)),
    Metric("nebula_stream_bytes", "gauge", "Size of a stream.", _ROUTER, ("stream",)),
    Metric(
        "nebula_stream_replicas",
        "gauge",
        "Copies that a stream should have on NATS servers.",
        _ROUTER,
        ("stream",),
    ),
    Metric(
        "nebula_stream_replicas_current",
        "gauge",
        "Copies of a stream that have all of it, as its leader knows.",
        _ROUTER,
        ("stream",),
    ),
)
