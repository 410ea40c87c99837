"""The subjects of questions, each of which has a reply; no stream keeps them."""

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.events import subjects
from nebula.events.inference import BodyWanted, StillWanted, Unwanted
from nebula.events.metrics_messages import MetricsAsked, MetricsTold
from nebula.events.requests_in_flight import (
    CancelQuestion,
    CancelReply,
    InFlightQuestion,
    InFlightReply,
)
from nebula.schema.channel import Channel

QUESTIONS = (
    Channel(
        "waiting",
        subjects.waiting("{gateway}"),
        "receive",
        "An engine asks which of its requests still have a client; the reply names the others.",
        StillWanted,
        reply=Unwanted,
    ),
    Channel(
        "bodies",
        subjects.bodies("{gateway}"),
        "receive",
        "An engine asks for a part of a body that its request does not carry, or for what the "
        "client of a session has sent.",
        BodyWanted,
        reply="the part, empty if a session's client has sent nothing for 5 s; a header "
        "`Nebula-Failure` if the attempt is not wanted any more",
    ),
    Channel(
        "gatewayMetrics",
        subjects.gateway_metrics(),
        "receive",
        "A gateway asks all gateways where their metrics are.",
        MetricsAsked,
        reply=MetricsTold,
    ),
    Channel(
        "routerMetrics",
        subjects.router_metrics("{router}"),
        "receive",
        "A gateway asks a router for its metrics.",
        MetricsAsked,
        reply=MetricsTold,
    ),
    Channel(
        "nodeMetrics",
        subjects.node_metrics("{node}"),
        "receive",
        "A gateway asks a node for its metrics, or for those of its engines.",
        MetricsAsked,
        reply=MetricsTold,
    ),
    Channel(
        "inFlight",
        subjects.IN_FLIGHT,
        "receive",
        "A question which requests are in flight: every gateway and router replies.",
        InFlightQuestion,
        reply=InFlightReply,
    ),
    Channel(
        "cancelInFlight",
        subjects.CANCEL_IN_FLIGHT,
        "receive",
        "An operator cancels a request: every gateway replies whether it had it.",
        CancelQuestion,
        reply=CancelReply,
    ),
    Channel(
        "logs",
        subjects.logs("{node}"),
        "receive",
        "A request for lines of an engine's log.",
        LogRequest,
        reply=LogReply,
    ),
)
