"""The commands that run an actor in the foreground: gateway, router, node."""

import fcntl
import importlib.metadata
import logging
import shlex
import socket
import sys
import uuid
from pathlib import Path
from typing import IO

import click

from nebula.actors.actor import Actor
from nebula.actors.gateway.actor import Gateway
from nebula.actors.node import devices
from nebula.actors.node.actor import Node
from nebula.actors.node.reconciliation import Restarts
from nebula.actors.node.settings import NodeSettings
from nebula.actors.router.actor import Router
from nebula.cli.gateway_options import place, root_path_option, uds_mode_option, uds_option
from nebula.cli.http_server import serve_http
from nebula.cli.options import (
    PORT,
    Amount,
    allow_origin_option,
    allowed_host_option,
    cluster_option,
    drain_option,
    engine_command_option,
    engine_log_limit_option,
    fetch_option,
    folder_option,
    grace_option,
    host_option,
    keep_alive_option,
    label_option,
    load_timeout_option,
    lost_after_option,
    name_option,
    nats_option,
    requests_grace_option,
    restart_limit_option,
    restart_pause_option,
    stall_limit_option,
    start_limit_option,
    stream_replicas_option,
    verbose_option,
    weights_option,
)
from nebula.cli.process import FATAL, fail, on_stop, run, set_up_logging
from nebula.events import subjects
from nebula.events.values import Device
from nebula.http.inference import LARGEST_BODY, Limits, Patience
from nebula.http.origins import Doors
from nebula.store import private
from nebula.store.connection import Connection
from nebula.store.responses import KEEP, ResponseStore

log = logging.getLogger(__name__)


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
@verbose_option
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
    max_body: int,
    load_timeout: float,
    keep_alive: float,
    grace: float,
    request_memory: int,
    answer_memory: int,
    idle_timeout: float,
    keep_responses: float,
    responses_room: int,
    verbose: bool,
) -> None:
    """Serve OpenAI's API and the admin API over HTTP."""
    set_up_logging(verbose)
    patience = Patience(load_timeout, idle_timeout)
    actor = Gateway(
        Connection(nats, "gateway"),
        f"gw-{uuid.uuid4().hex[:8]}",
        stream_replicas=stream_replicas,
        request_memory=request_memory,
        answer_memory=answer_memory,
    )
    actor.cluster = cluster
    where = place(host, port, uds, uds_mode)
    bound = where.url if uds else host
    doors = Doors(bound=bound, hosts=allowed_hosts, origins=allowed_origins, root=root_path)
    store = ResponseStore(actor.connection, stream_replicas, keep_responses, responses_room)
    limits = Limits(max_body, patience)
    run(serve_http(actor, where, limits, doors, keep_alive, grace, store))


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
@verbose_option
def router(
    nats: str,
    stream_replicas: int,
    cluster: str,
    lost_after: float,
    waiting_memory: int,
    verbose: bool,
) -> None:
    """Place models on nodes and send every request to a ready replica."""
    set_up_logging(verbose)
    actor = Router(
        Connection(nats, "router"),
        stream_replicas=stream_replicas,
        lost_after=lost_after,
        waiting_memory=waiting_memory,
    )
    actor.cluster = cluster
    run(_until_stopped(actor))


@click.command()
@nats_option
@stream_replicas_option
@cluster_option
@folder_option
@engine_command_option
@name_option
@label_option
@grace_option
@drain_option
@restart_limit_option
@restart_pause_option
@start_limit_option
@engine_log_limit_option
@stall_limit_option
@click.option(
    "--leave-engines",
    is_flag=True,
    help="When stopped, leave the engines running for the next node process to adopt.",
)
@click.option(
    "--devices",
    "imagined",
    default=None,
    metavar="KIND:MEMORY,…",
    help=(
        "For rehearsals: offer these simulated devices, such as gpu:80GiB, and the files that "
        "the log mentions instead of those on the disk."
    ),
)
@weights_option
@fetch_option
@verbose_option
def node(
    nats: str,
    stream_replicas: int,
    cluster: str,
    folder: Path,
    engine_command: str | None,
    name: str | None,
    labels: tuple[str, ...],
    grace: float,
    drain: float,
    restart_limit: int,
    restart_pause: float,
    start_limit: float,
    engine_log_limit: int,
    stall_limit: float,
    leave_engines: bool,
    imagined: str | None,
    weights: Path | None,
    fetch: bool,
    verbose: bool,
) -> None:
    """Run the engines that the cluster assigns to this machine."""
    set_up_logging(verbose)
    identity = name or subjects.model_id(socket.gethostname())
    if not subjects.is_token(identity):
        fail(f"--name {identity!r}: use {subjects.ID_FORM}", FATAL)
    settings = NodeSettings(
        node=identity,
        folder=folder.resolve() / "nodes" / identity,
        engine_command=engine_arguments(engine_command),
        labels=read_labels(labels),
        grace=grace,
        drain=drain,
        restarts=Restarts(limit=restart_limit, pause=restart_pause),
        start_limit=start_limit,
        engine_log_limit=engine_log_limit,
        stall_limit=stall_limit,
        leave_engines=leave_engines,
        version=importlib.metadata.version("nebula-serving"),
        weights=weights.resolve() if weights is not None else None,
        fetches=fetch,
        simulated=imagined is not None,
    )
    try:
        inventory = devices.probe() if imagined is None else devices.imagined(imagined)
    except ValueError as error:
        fail(f"--devices: {error}", FATAL)
    except devices.DriverSilent as error:
        fail(f"{error}. A node that knows of no GPU would offer the CPU instead, so it ends")
    with _lock(settings.folder):
        private.tighten(folder.resolve(), settings.folder)
        run(_node(nats, stream_replicas, cluster, settings, inventory))


async def _node(
    nats: str,
    stream_replicas: int,
    cluster: str,
    settings: NodeSettings,
    inventory: tuple[Device, ...],
) -> None:
    connection = Connection(nats, f"node {settings.node}")
    actor = Node(connection, settings, inventory, stream_replicas=stream_replicas)
    actor.cluster = cluster
    await _until_stopped(actor)


async def _until_stopped(actor: Actor) -> None:
    on_stop(lambda: (actor.hurry if actor.stopping else actor.stop)())
    try:
        await actor.run()
    finally:
        await actor.connection.close()


def engine_arguments(command: str | None) -> tuple[str, ...]:
    """Split an engine command; the default is vLLM's server in this environment."""
    if command:
        return tuple(shlex.split(command))
    return (sys.executable, "-m", "vllm.entrypoints.openai.api_server")


def read_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE pairs; end the program for anything else."""
    pairs = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not key or not equals:
            fail(f"--label {label!r}: write KEY=VALUE", FATAL)
        pairs[key] = value
    return pairs


def _lock(folder: Path) -> IO[str]:
    """Lock the node's folder: two node processes of one name would fight over its engines."""
    private.folder(folder)
    lock = private.opened(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        fail(f"another node process holds {folder}: give another --name or another --folder", FATAL)
    return lock
