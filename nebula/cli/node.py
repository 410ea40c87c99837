"""`nebula node`: runs a node in the foreground."""

import fcntl
import importlib.metadata
import shlex
import socket
import sys
from pathlib import Path
from typing import IO

import click

from nebula.actors.node import devices
from nebula.actors.node.actor import Node
from nebula.actors.node.reconciliation import Restarts
from nebula.actors.node.settings import NodeSettings
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.cli.metrics_port import MetricsPort, metrics_options
from nebula.cli.node_policy import engine_options, policy_of, policy_options
from nebula.cli.options import (
    cluster_option,
    drain_option,
    engine_command_option,
    engine_log_limit_option,
    fetch_option,
    folder_option,
    grace_option,
    label_option,
    name_option,
    nats_option,
    rehearsal_option,
    restart_limit_option,
    restart_pause_option,
    secret_command_option,
    secrets_folder_option,
    stall_limit_option,
    start_limit_option,
    stream_replicas_option,
    weights_option,
)
from nebula.cli.process import FATAL, fail, run, until_stopped
from nebula.cli.tracing_options import TraceOptions, trace_events, tracing_options
from nebula.events import subjects
from nebula.store import private
from nebula.store.connection import Connection


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
@click.option(
    "--engine-nats",
    envvar="NEBULA_ENGINE_NATS_URL",
    default="",
    metavar="URL",
    help=(
        "NATS URL for its engines, with credentials that are theirs [the node's own]. [env: "
        "NEBULA_ENGINE_NATS_URL]"
    ),
)
@policy_options
@secrets_folder_option
@secret_command_option
@engine_options
@rehearsal_option
@metrics_options
@tracing_options(engines=True)
@logging_options
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
    engine_nats: str,
    policy: Path | None,
    sources: tuple[str, ...],
    options: tuple[str, ...],
    variables: tuple[str, ...],
    secrets_folder: Path | None,
    secret_command: str,
    engine_listen: str,
    kv_events: bool,
    rehearsal: bool,
    metrics: MetricsPort,
    traces: TraceOptions,
    logs: LogOptions,
) -> None:
    """Run the engines that the cluster assigns to this machine."""
    logs.set_up()
    tracing = traces.settings()
    identity = name or subjects.model_id(socket.gethostname())
    if not subjects.is_token(identity):
        fail(f"--name {identity!r}: use {subjects.ID_FORM}", FATAL)
    settings = NodeSettings(
        node=identity,
        folder=folder.resolve() / "nodes" / identity,
        engine_command=_engine_arguments(engine_command),
        labels=_read_labels(labels),
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
        engine_nats=engine_nats,
        policy=policy_of(policy, sources, options, variables),
        secrets_folder=(secrets_folder or folder / "secrets").resolve(),
        secret_command=secret_command,
        engine_sockets=engine_listen == "socket",
        traces=tracing.endpoint if tracing is not None and traces.engines else "",
        rehearsal=rehearsal,
        kv_events=kv_events,
    )
    try:
        inventory = devices.probe() if imagined is None else devices.imagined(imagined)
    except ValueError as error:
        fail(f"--devices: {error}", FATAL)
    except devices.DriverSilent as error:
        fail(f"{error}. A node that knows of no GPU would offer the CPU instead, so it ends")
    with _lock(settings.folder), traces.tracing("nebula-node") as made:
        private.tighten(folder.resolve(), settings.folder)
        connection = Connection(nats, f"node {settings.node}", role="node")
        actor = Node(connection, settings, inventory, stream_replicas=stream_replicas)
        actor.cluster = cluster
        trace_events(actor, made)
        run(_node(actor, metrics))


async def _node(actor: Node, metrics: MetricsPort) -> None:
    async with metrics.serving(actor.figures, actor.figures.engines):
        await until_stopped(actor)


def _engine_arguments(command: str | None) -> tuple[str, ...]:
    """Split an engine command; the default is vLLM's server in this environment."""
    if command:
        return tuple(shlex.split(command))
    return (sys.executable, "-m", "vllm.entrypoints.openai.api_server")


def _read_labels(labels: tuple[str, ...]) -> dict[str, str]:
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
