"""`nebula up`: a whole cluster on this machine, NATS included, ended by one Ctrl-C."""

import asyncio
import sys
from pathlib import Path

import click
import httpx
from click.core import ParameterSource
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape

from nebula.actors.founding import told
from nebula.cli import demo, tables
from nebula.cli.cluster import joined
from nebula.cli.options import (
    PORT,
    Whole,
    cluster_option,
    drain_option,
    engine_command_option,
    engine_log_limit_option,
    fetch_option,
    folder_option,
    grace_option,
    label_option,
    load_patience_option,
    log_limit_option,
    log_warning_option,
    lost_after_option,
    name_option,
    not_empty,
    restart_limit_option,
    restart_pause_option,
    stall_limit_option,
    start_limit_option,
    stream_replicas_option,
    verbose_option,
    weights_option,
)
from nebula.cli.process import FATAL, fail, on_stop, run, set_up_logging
from nebula.cli.supervisor import ChildFailed, Supervisor
from nebula.store.connection import Unavailable
from nebula.store.reaching import shown
from nebula.store.server import NO_LIMIT, EmbeddedServer

QUIET = 15.0
"""Seconds that the gateway may take to get ready before it is said what it waits for."""

MEMORY = "cluster"
"""File in the folder of `nebula up --nats` that names the cluster which it joined."""


class UpSettings(Struct, frozen=True):
    """What `nebula up` was told."""

    nats: str | None
    nats_port: int
    log_limit: int | None
    log_warning: int
    stream_replicas: int
    cluster: str
    folder: Path
    host: str
    port: int
    routers: int
    node: bool
    gateway_arguments: tuple[str, ...]
    router_arguments: tuple[str, ...]
    node_arguments: tuple[str, ...]
    demo: Path | None


@click.command()
@click.option(
    "--nats",
    envvar="NEBULA_NATS_URL",
    default=None,
    metavar="URL",
    callback=not_empty,
    help="Use this NATS server or cluster instead of starting one. [env: NEBULA_NATS_URL]",
)
@click.option(
    "--nats-port", default=4222, show_default=True, type=PORT, help="Port of the NATS it starts."
)
@stream_replicas_option
@cluster_option
@folder_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The gateway's address.")
@click.option("--port", default=8000, show_default=True, type=PORT, help="The gateway's port.")
@load_patience_option
@click.option("--routers", default=1, show_default=True, type=Whole(1, 16))
@click.option("--node/--no-node", default=True, show_default=True, help="Run engines here.")
@name_option
@label_option
@grace_option
@drain_option
@restart_limit_option
@restart_pause_option
@start_limit_option
@engine_log_limit_option
@stall_limit_option
@lost_after_option
@engine_command_option
@weights_option
@fetch_option
@log_limit_option
@log_warning_option
@click.option(
    "--demo",
    "demo_folder",
    default=None,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Load the demo models from this folder and print how to try them.",
)
@verbose_option
def up(
    nats: str | None,
    nats_port: int,
    stream_replicas: int,
    cluster: str,
    folder: Path,
    host: str,
    port: int,
    load_patience: float,
    routers: int,
    node: bool,
    name: str | None,
    labels: tuple[str, ...],
    grace: float,
    drain: float,
    restart_limit: int,
    restart_pause: float,
    start_limit: float,
    engine_log_limit: int,
    stall_limit: float,
    lost_after: float,
    engine_command: str | None,
    weights: Path | None,
    fetch: bool,
    log_limit: int | None,
    log_warning: int,
    demo_folder: Path | None,
    verbose: bool,
) -> None:
    """Run NATS, a gateway, a router and a node on this machine, and end them together."""
    set_up_logging(verbose)
    source = click.get_current_context().get_parameter_source
    if nats and source("nats_port") is ParameterSource.COMMANDLINE:
        given = "--nats" if source("nats") is ParameterSource.COMMANDLINE else "NEBULA_NATS_URL"
        fail(f"--nats-port is for the NATS that it starts, and {given} names one: {shown(nats)}", 2)
    node_arguments = ["--grace", str(grace), "--drain", str(drain)]
    node_arguments += ["--restart-limit", str(restart_limit)]
    node_arguments += ["--restart-pause", str(restart_pause)]
    node_arguments += ["--start-limit", str(start_limit)]
    node_arguments += ["--engine-log-limit", str(engine_log_limit)]
    node_arguments += ["--stall-limit", str(stall_limit)]
    node_arguments += ["--name", name] if name else []
    node_arguments += [argument for label in labels for argument in ("--label", label)]
    node_arguments += ["--engine-command", engine_command] if engine_command else []
    node_arguments += ["--weights-folder", str(weights)] if weights is not None else []
    node_arguments += [] if fetch else ["--no-fetch"]
    settings = UpSettings(
        nats=nats,
        nats_port=nats_port,
        log_limit=log_limit,
        log_warning=log_warning,
        stream_replicas=stream_replicas,
        cluster=cluster,
        folder=folder.resolve(),
        host=host,
        port=port,
        routers=routers,
        node=node,
        gateway_arguments=("--load-patience", str(load_patience)),
        router_arguments=("--lost-after", str(lost_after)),
        node_arguments=tuple(node_arguments),
        demo=demo_folder.resolve() if demo_folder else None,
    )
    run(_up(settings, grace))


async def _up(settings: UpSettings, grace: float) -> None:
    if settings.nats:
        settings = await same_cluster(settings.nats, settings)
    console = tables.console(errors=True)
    server = None if settings.nats else _server(settings)
    url = settings.nats or (server.url if server else "")
    supervisor = Supervisor(settings.folder / "logs", server, warn_below=settings.log_warning)
    stopping = asyncio.Event()
    on_stop(stopping.set)
    routers = [f"router-{number}" for number in range(settings.routers)]
    await supervisor.start_server()
    if settings.nats:
        console.print(f"Using the NATS at {shown(url)}, starting none", soft_wrap=True)
    try:
        for name in routers:
            line = [*_command("router", settings), *settings.router_arguments]
            supervisor.start(name, line, {"NEBULA_NATS_URL": url})
        if settings.node:
            line = [*_command("node", settings), "--folder", str(settings.folder)]
            line += settings.node_arguments
            supervisor.start("node", line, {"NEBULA_NATS_URL": url})
        line = [*_command("gateway", settings), *settings.gateway_arguments]
        line += ["--host", settings.host, "--port", str(settings.port)]
        supervisor.start("gateway", line, {"NEBULA_NATS_URL": url})
        serving = asyncio.create_task(_serve(settings, url, console))
        failing = asyncio.create_task(supervisor.failure())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((failing, stopped), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        if failing.done():
            failing.result()
    except ChildFailed as error:
        fail(str(error))
    finally:
        console.print("stopping: engines first, NATS last")
        await supervisor.stop(["gateway"], 10)
        await supervisor.stop(["node"], grace + 15)
        await supervisor.stop(routers, 10)
        await supervisor.stop_server()


def _server(settings: UpSettings) -> EmbeddedServer:
    limit = NO_LIMIT if settings.log_limit is None else settings.log_limit
    return EmbeddedServer(settings.folder / "nats", settings.nats_port, limit=limit)


async def same_cluster(nats: str, settings: UpSettings) -> UpSettings:
    """Return `settings` with the cluster that this folder is of, if it is known.

    Ends the program where another one was founded on that NATS, and nobody asked to join it.
    """
    memory = settings.folder / MEMORY
    if settings.cluster:
        return settings
    if memory.exists():
        return replace(settings, cluster=memory.read_text().strip())
    if (settings.folder / "logs").exists():
        return settings  # it was there before clusters had ids
    try:
        async with joined(nats) as projection:
            there = projection.state.cluster
    except Unavailable:
        return settings
    if there.id:
        fail(
            f"there is a cluster at {nats} already, {told(there)}. To join it with a gateway, "
            f"router and node of this folder: --cluster {there.name or there.id}. For a cluster of "
            "its own: another NATS, or none, and `nebula up` starts one",
            FATAL,
        )
    return settings


async def remember(nats: str, folder: Path) -> None:
    """Note in a folder which cluster it is of, so that it never joins another by mistake."""
    async with joined(nats) as projection:
        (folder / MEMORY).write_text(projection.state.cluster.id + "\n")


def _command(actor: str, settings: UpSettings) -> list[str]:
    return [
        sys.executable,
        "-m",
        "nebula.cli.main",
        actor,
        "--stream-replicas",
        str(settings.stream_replicas),
        *(("--cluster", settings.cluster) if settings.cluster else ()),
    ]


async def _serve(settings: UpSettings, url: str, console: Console) -> None:
    """Say when the cluster is up, then bring up the demo if it was asked for."""
    address = f"http://{settings.host}:{settings.port}"
    await _ready(address, console)
    if settings.nats:
        await remember(settings.nats, settings.folder)
    console.print(f"[green]Nebula is up[/green]: {address}  (NATS: {url})", soft_wrap=True)
    engines = f"; of engines: {settings.folder}/nodes/*/logs" if settings.node else ""
    console.print(f"Logs: {settings.folder}/logs{engines}", soft_wrap=True)
    if settings.demo is not None:
        async with joined(url, patience=30) as projection:
            await demo.bring_up(projection, settings.demo, address, url, console)
    else:
        console.print("Load a model with `nebula load SOURCE`; Ctrl-C ends everything.")


async def _ready(address: str, console: Console) -> None:
    """Wait until the gateway is ready; after some seconds say what it waits for, once for each."""
    loop = asyncio.get_running_loop()
    patient_until, said = loop.time() + QUIET, ""
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                answer = await client.get(f"{address}/ready")
                if answer.status_code == 200:
                    return
                reason = str(answer.json()["error"]["message"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                reason = ""
            kind = reason.partition(":")[0]
            if reason and kind != said and loop.time() > patient_until:
                said = kind
                console.print(f"not ready yet: {escape(reason)}", soft_wrap=True)
            await asyncio.sleep(0.1)
