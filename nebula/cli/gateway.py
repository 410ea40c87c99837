"""`nebula gateway`: runs a gateway in the foreground."""

import uuid
from collections.abc import Callable
from pathlib import Path

import click

from nebula.actors.gateway.actor import Gateway
from nebula.cli.exits import GIVEN, Failed
from nebula.cli.gateway_options import (
    leases_option,
    open_option,
    open_scopes,
    place,
    root_path_option,
    uds_mode_option,
    uds_option,
    workers_option,
)
from nebula.cli.http_server import serve_http
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.cli.options import (
    PORT,
    Amount,
    allow_origin_option,
    allowed_host_option,
    cluster_option,
    host_option,
    keep_alive_option,
    load_timeout_option,
    nats_option,
    requests_grace_option,
    stream_replicas_option,
)
from nebula.cli.process import run
from nebula.cli.sign_in_options import SignInOptions, sign_in_options
from nebula.cli.tracing_options import TraceOptions, trace_events, traced, tracing_options
from nebula.cli.worker import AtWork, Worker, as_worker_option
from nebula.cli.workers import keep_workers
from nebula.http.inference import LARGEST_BODY, InferenceRoutes, Limits, Patience
from nebula.http.origins import Doors
from nebula.store.connection import Connection
from nebula.store.responses import KEEP, ResponseStore


@click.command()
@nats_option
@stream_replicas_option
@cluster_option
@host_option
@click.option("--port", default=8000, show_default=True, type=PORT, help="Port to listen on.")
@uds_option
@uds_mode_option
@root_path_option
@allowed_host_option
@allow_origin_option
@open_option
@leases_option
@sign_in_options
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=LARGEST_BODY,
    show_default="64 MiB",
    help="Largest request body in bytes.",
)
@load_timeout_option
@keep_alive_option
@requests_grace_option
@click.option(
    "--idle-timeout",
    default=600.0,
    show_default=True,
    help="Seconds that an engine may send nothing within one answer.",
)
@click.option(
    "--request-memory",
    envvar="NEBULA_REQUEST_MEMORY",
    default="512MiB",
    show_default=True,
    type=Amount(),
    help="Memory for the bodies of all requests at a time; more are refused with 503. "
    "[env: NEBULA_REQUEST_MEMORY]",
)
@click.option(
    "--answer-memory",
    envvar="NEBULA_ANSWER_MEMORY",
    default="256MiB",
    show_default=True,
    type=Amount(),
    help=(
        "Memory for answers that slow clients have not read yet; beyond it the slowest are cut "
        "off. [env: NEBULA_ANSWER_MEMORY]"
    ),
)
@click.option(
    "--keep-responses",
    envvar="NEBULA_KEEP_RESPONSES",
    default=KEEP,
    show_default="30 days",
    type=click.FloatRange(60.0),
    help=(
        "Seconds for which responses are kept, and conversations after their last use; the same "
        "for all gateways. [env: NEBULA_KEEP_RESPONSES]"
    ),
)
@click.option(
    "--responses-room",
    envvar="NEBULA_RESPONSES_ROOM",
    default="1GiB",
    show_default=True,
    type=Amount(1024 * 1024),
    help=(
        "Disk of the NATS server for responses and conversations: beyond it the oldest go; the "
        "same for all gateways. [env: NEBULA_RESPONSES_ROOM]"
    ),
)
@workers_option
@as_worker_option
@tracing_options(prompts=True)
@logging_options
def gateway(
    nats: str,
    stream_replicas: int,
    cluster: str,
    host: str,
    port: int,
    uds: Path | None,
    uds_mode: int,
    root_path: str,
    allowed_hosts: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    opened: tuple[str, ...],
    leases: bool,
    sign_in: SignInOptions,
    max_body: int,
    load_timeout: float,
    keep_alive: float,
    grace: float,
    request_memory: int,
    answer_memory: int,
    idle_timeout: float,
    keep_responses: float,
    responses_room: int,
    workers: int,
    worker: Worker | None,
    traces: TraceOptions,
    logs: LogOptions,
) -> None:
    """Serve OpenAI's API and the admin API over HTTP."""
    logs.set_up(worker.number if worker else 0)
    where = place(host, port, uds, uds_mode)
    if workers > 1 and worker is None:
        run(keep_workers(where, workers, click.get_current_context().meta[GIVEN]))
        return
    bound = where.url if uds else host
    doors = Doors(
        bound=bound,
        hosts=allowed_hosts,
        origins=allowed_origins,
        root=root_path,
        open_scopes=open_scopes(opened, where),
    )
    limits = Limits(max_body, Patience(load_timeout, idle_timeout))
    with traces.tracing("nebula-gateway") as tracing:
        made: Callable[..., Gateway] = Gateway
        routes: Callable[..., InferenceRoutes] = InferenceRoutes
        if tracing is not None:
            made, routes = traced(tracing, prompts=traces.prompts)
        actor = made(
            Connection(nats, "gateway", role="gateway"),
            f"gw-{uuid.uuid4().hex[:8]}",
            stream_replicas=stream_replicas,
            request_memory=request_memory // workers,
            answer_memory=answer_memory // workers,
        )
        actor.cluster = cluster
        actor.leasing.leases.asks = leases
        trace_events(actor, tracing)
        store = ResponseStore(actor.connection, stream_replicas, keep_responses, responses_room)
        at_work = AtWork(worker) if worker else None
        signing = sign_in.settings()
        serving = (actor, where, limits, doors, keep_alive, grace, store, signing, routes, at_work)
        try:
            run(serve_http(*serving))
        except Failed as ended:
            if at_work is not None:
                at_work.fail(ended.message)
            raise
