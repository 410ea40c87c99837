"""How a gateway asks other actors for their metrics, and what they tell. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Wanted: TypeAlias = Literal["address", "own", "engines"]
"""`address`: where its metrics can be scraped. `own`: its metrics. `engines`: those of engines."""


class MetricsAsked(Struct, frozen=True):
    """A question for metrics."""

    wanted: Annotated[
        Wanted,
        Meta(description="`address`, `own`, or `engines` for those of the node's engines."),
    ] = "own"


class EngineMetrics(Struct, frozen=True):
    """The metrics of one engine."""

    replica: Annotated[str, Meta(description="Id of its replica.")]
    text: Annotated[bytes, Meta(description="Prometheus's text, as zlib compresses it.")]


class MetricsTold(Struct, frozen=True):
    """The reply to a question for metrics."""

    address: Annotated[
        str,
        Meta(description="HOST:PORT at which they can be scraped, too; empty for nowhere."),
    ] = ""
    text: Annotated[
        bytes, Meta(description="Prometheus's text, as zlib compresses it; empty if not wanted.")
    ] = b""
    engines: Annotated[
        tuple[EngineMetrics, ...],
        Meta(description="Those of engines that told theirs in time, as many as fit a message."),
    ] = ()
