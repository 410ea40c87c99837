"""`nebula router`: runs a router in the foreground."""

import click

from nebula.actors.router.actor import Router
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.cli.metrics_port import MetricsPort, metrics_options
from nebula.cli.options import (
    Amount,
    cluster_option,
    lost_after_option,
    nats_option,
    stream_replicas_option,
)
from nebula.cli.process import run, until_stopped
from nebula.cli.tracing_options import TraceOptions, router_posting, trace_events, tracing_options
from nebula.store.connection import Connection


@click.command()
@nats_option
@stream_replicas_option
@cluster_option
@lost_after_option
@click.option(
    "--waiting-memory",
    envvar="NEBULA_WAITING_MEMORY",
    default="512MiB",
    show_default=True,
    type=Amount(),
    help=(
        "Memory for queued requests, half of it for those of one model; more are refused with "
        "429. [env: NEBULA_WAITING_MEMORY]"
    ),
)
@metrics_options
@tracing_options()
@logging_options
def router(
    nats: str,
    stream_replicas: int,
    cluster: str,
    lost_after: float,
    waiting_memory: int,
    metrics: MetricsPort,
    traces: TraceOptions,
    logs: LogOptions,
) -> None:
    """Place models on nodes and send every request to a ready replica."""
    logs.set_up()
    with traces.tracing("nebula-router") as tracing:
        actor = Router(
            Connection(nats, "router", role="router"),
            stream_replicas=stream_replicas,
            lost_after=lost_after,
            waiting_memory=waiting_memory,
            posting=router_posting(tracing),
        )
        actor.cluster = cluster
        trace_events(actor, tracing)
        run(_router(actor, metrics))


async def _router(actor: Router, metrics: MetricsPort) -> None:
    async with metrics.serving(actor.figures):
        await until_stopped(actor)
