"""`nebula up`: a whole cluster on this machine, NATS included, ended by one Ctrl-C."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import click
from click.core import ParameterSource
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape

from nebula.cli import admin_key, demo, log_console, node_policy, readiness_watch, telling_news
from nebula.cli.cluster import CONNECT_PATIENCE, joined
from nebula.cli.elsewhere import note
from nebula.cli.embedded import embedded, environment
from nebula.cli.gateway_options import (
    leases_option,
    open_option,
    place,
    place_arguments,
    root_path_option,
    uds_mode_option,
    uds_option,
    workers_option,
)
from nebula.cli.joining import answers, remember, same_cluster
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.cli.options import (
    PORT,
    Whole,
    allow_origin_option,
    allowed_host_option,
    cluster_option,
    drain_option,
    engine_command_option,
    engine_log_limit_option,
    fetch_option,
    folder_option,
    host_option,
    keep_alive_option,
    label_option,
    load_timeout_option,
    log_limit_option,
    log_warning_option,
    lost_after_option,
    name_option,
    not_empty,
    rehearsal_option,
    restart_limit_option,
    restart_pause_option,
    secret_command_option,
    secrets_folder_option,
    stall_limit_option,
    start_limit_option,
    stream_replicas_option,
    weights_option,
    whole_grace_option,
)
from nebula.cli.process import fail, on_stop, run, say
from nebula.cli.sign_in_options import SignInOptions, sign_in_options
from nebula.cli.supervisor import ChildFailed, Supervisor
from nebula.cli.tracing_options import TraceOptions, tracing_options
from nebula.http.server.listening import HostPort, everywhere
from nebula.http.server.listening import url as url_of
from nebula.http.server.unix_sockets import UnixSocket
from nebula.store import private
from nebula.store.reaching import shown
from nebula.store.server import NO_LIMIT, EmbeddedServer

QUIET = 15.0
"""Seconds after which `nebula up` prints why its gateway is not ready yet."""

LOCAL = "nats://127.0.0.1:{}"
"""The URL of the NATS that it starts, with its port."""


class UpSettings(Struct, frozen=True, kw_only=True):
    """The settings of `nebula up`."""

    nats: str | None
    nats_port: int
    log_limit: int | None
    log_warning: int
    stream_replicas: int
    cluster: str
    folder: Path
    place: HostPort | UnixSocket
    routers: int
    node: bool
    gateway_arguments: tuple[str, ...]
    router_arguments: tuple[str, ...]
    node_arguments: tuple[str, ...]
    demo: Path | None
    logs: LogOptions = LogOptions()


@click.command()
@click.option(
    "--nats",
    envvar="NEBULA_NATS_URL",
    default=None,
    metavar="URL",
    callback=not_empty,
    help="Use this NATS server or cluster instead of starting a server. [env: NEBULA_NATS_URL]",
)
@click.option(
    "--nats-port",
    default=4222,
    show_default=True,
    type=PORT,
    help=("Port of the NATS server that it starts."),
)
@stream_replicas_option
@cluster_option
@folder_option
@host_option
@click.option("--port", default=8000, show_default=True, type=PORT, help="Port of the gateway.")
@uds_option
@uds_mode_option
@root_path_option
@allowed_host_option
@allow_origin_option
@open_option
@leases_option
@workers_option
@rehearsal_option
@sign_in_options
@load_timeout_option
@keep_alive_option
@click.option("--routers", default=1, show_default=True, type=Whole(1, 16))
@click.option("--node/--no-node", default=True, show_default=True, help="Run engines here.")
@name_option
@label_option
@whole_grace_option
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
@node_policy.policy_options
@secrets_folder_option
@secret_command_option
@node_policy.engine_options
@log_limit_option
@log_warning_option
@click.option(
    "--demo",
    "demo_folder",
    default=None,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Load the demo models from this folder and print how to try them.",
)
@tracing_options(prompts=True, engines=True)
@logging_options
def up(
    nats: str | None,
    nats_port: int,
    stream_replicas: int,
    cluster: str,
    folder: Path,
    host: str,
    port: int,
    uds: Path | None,
    uds_mode: int,
    root_path: str,
    allowed_hosts: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    opened: tuple[str, ...],
    leases: bool,
    workers: int,
    rehearsal: bool,
    sign_in: SignInOptions,
    load_timeout: float,
    keep_alive: float,
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
    policy: Path | None,
    sources: tuple[str, ...],
    options: tuple[str, ...],
    variables: tuple[str, ...],
    secrets_folder: Path | None,
    secret_command: str,
    engine_listen: str,
    kv_events: bool,
    log_limit: int | None,
    log_warning: int,
    demo_folder: Path | None,
    traces: TraceOptions,
    logs: LogOptions,
) -> None:
    """Run NATS, a gateway, a router and a node on this machine, and end them together."""
    logs.set_up()
    source = click.get_current_context().get_parameter_source
    if nats and source("nats_port") is ParameterSource.COMMANDLINE:
        if source("nats") is ParameterSource.COMMANDLINE:
            fail(
                f"--nats-port is for the NATS that it starts, and --nats names one: {shown(nats)}",
                2,
            )
        say(
            f"--nats-port starts a NATS here, so NEBULA_NATS_URL ({shown(nats)}) is not used. "
            f"Other commands need --nats {LOCAL.format(nats_port)}, or that in NEBULA_NATS_URL"
        )
        nats = None
    own = {
        "--grace": grace,
        "--drain": drain,
        "--restart-limit": restart_limit,
        "--restart-pause": restart_pause,
        "--start-limit": start_limit,
        "--engine-log-limit": engine_log_limit,
        "--stall-limit": stall_limit,
        "--name": name,
        "--engine-command": engine_command,
        "--weights-folder": weights,
        "--secrets-folder": secrets_folder and secrets_folder.resolve(),
        "--secret-command": secret_command,
    }
    node_arguments = [
        word
        for key, value in own.items()
        if value is not None and value != ""
        for word in (key, str(value))
    ]
    node_arguments += [argument for label in labels for argument in ("--label", label)]
    node_arguments += [] if fetch else ["--no-fetch"]
    node_arguments += [f"--{'' if kv_events else 'no-'}kv-events", *["--rehearsal"] * rehearsal]
    node_arguments += node_policy.arguments(policy, sources, options, variables)
    node_arguments += ["--engine-listen", engine_listen, *traces.arguments(engines=True)]
    settings = UpSettings(
        nats=nats,
        nats_port=nats_port,
        log_limit=log_limit,
        log_warning=log_warning,
        stream_replicas=stream_replicas,
        cluster=cluster,
        folder=folder.resolve(),
        place=place(host, port, uds, uds_mode),
        routers=routers,
        node=node,
        gateway_arguments=(
            *("--load-timeout", str(load_timeout)),
            *("--keep-alive", str(keep_alive)),
            *("--grace", str(grace)),
            *("--workers", str(workers)),
            *place_arguments(host, port, uds, uds_mode),
            *(("--root-path", root_path) if root_path else ()),
            *(argument for host in allowed_hosts for argument in ("--allowed-host", host)),
            *(argument for url in allowed_origins for argument in ("--allow-origin", url)),
            *(argument for scope in opened for argument in ("--open", scope)),
            "--leases" if leases else "--no-leases",
            *sign_in.arguments(),
            *traces.arguments(prompts=True),
        ),
        router_arguments=("--lost-after", str(lost_after), *traces.arguments()),
        node_arguments=tuple(node_arguments),
        demo=demo_folder.resolve() if demo_folder else None,
        logs=logs,
    )
    run(_up(settings, grace))


async def _up(settings: UpSettings, grace: float) -> None:
    console = log_console.console()
    if settings.nats:
        from_environment = os.environ.get("NEBULA_NATS_URL") == settings.nats
        named = " of NEBULA_NATS_URL" if from_environment else ""
        using = f"Using the NATS at {shown(settings.nats)}{named}, starting none"
        console.print(using, soft_wrap=True)
        if await answers(settings.nats, console):
            cluster = await same_cluster(settings.nats, settings.cluster, settings.folder)
            settings = replace(settings, cluster=cluster)
    server = None if settings.nats else _server(settings)
    url = settings.nats or (server.url if server else "")
    note(url)
    private.tighten(settings.folder, settings.folder / "nats", settings.folder / "logs")
    supervisor = Supervisor(
        settings.folder / "logs",
        server,
        warn_below=settings.log_warning,
        stream_replicas=settings.stream_replicas,
    )
    stopping = asyncio.Event()
    on_stop(lambda: (supervisor.hurry if stopping.is_set() else stopping.set)())
    routers = [f"router-{number}" for number in range(settings.routers)]
    await supervisor.start_server()
    try:
        for name in routers:
            line = [*_command("router", settings), *settings.router_arguments]
            supervisor.start(name, line, environment("router", server, url))
        if settings.node:
            line = [*_command("node", settings), "--folder", str(settings.folder)]
            line += settings.node_arguments
            supervisor.start("node", line, environment("node", server, url))
        line = [*_command("gateway", settings), *settings.gateway_arguments]
        supervisor.start("gateway", line, environment("gateway", server, url))
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
        stopping.set()
        console.print(
            f"stopping: requests get {grace:g} s to end, then engines the same, NATS ends last; "
            "Ctrl-C again ends all at once",
            soft_wrap=True,
        )
        await supervisor.stop(["gateway"], grace + 10)
        await supervisor.stop(["node"], grace + 15)
        await supervisor.stop(routers, 10)
        await supervisor.stop_server()


def _server(settings: UpSettings) -> EmbeddedServer:
    limit = NO_LIMIT if settings.log_limit is None else settings.log_limit
    return embedded(settings.folder / "nats", settings.nats_port, limit)


def _command(actor: str, settings: UpSettings) -> list[str]:
    return [
        sys.executable,
        "-m",
        "nebula.cli.main",
        actor,
        "--stream-replicas",
        str(settings.stream_replicas),
        *(("--cluster", settings.cluster) if settings.cluster else ()),
        *settings.logs.arguments(),
    ]


async def _serve(settings: UpSettings, url: str, console: Console) -> None:
    """Print when the cluster is up, load the demo if it was requested, then watch the gateway."""
    where = settings.place
    address = where.url
    await _ready(address, console)
    if settings.nats:
        await remember(settings.nats, settings.folder)
    async with joined(url, patience=CONNECT_PATIENCE) as projection:
        key_file = await admin_key.ensure(projection, settings.folder)
    console.print(f"[green]Nebula is up[/green]: {address}  (NATS: {shown(url)})", soft_wrap=True)
    if isinstance(where, HostPort) and everywhere(where.host):
        there = escape(url_of(socket.gethostname(), where.port))
        text = f"It listens on all addresses of this machine: elsewhere try {there}"
        console.print(text, soft_wrap=True)
    engines = f"; of engines: {settings.folder}/nodes/*/logs" if settings.node else ""
    if key_file is not None:
        console.print(f"Admin key: {key_file}", soft_wrap=True)
    console.print(f"Logs: {settings.folder}/logs{engines}", soft_wrap=True)
    if settings.demo is not None:
        async with joined(url, patience=30) as projection:
            await projection.until(demo.has_a_node, demo.NODE_COMES)
            await demo.bring_up(projection, settings.demo, address, console)
    else:
        console.print("Load a model with `nebula load SOURCE`; Ctrl-C ends everything.")
    await asyncio.gather(readiness_watch.tell(address), telling_news.tell(url, console))


async def _ready(address: str, console: Console) -> None:
    """Wait until the gateway is ready; after some seconds print each reason for waiting once."""
    loop = asyncio.get_running_loop()
    patient_until, said = loop.time() + QUIET, ""
    async with readiness_watch.client(address) as client:
        while True:
            reason = await readiness_watch.reason(client)
            if reason is None:
                return
            kind = readiness_watch.kind(reason)
            if reason and kind != said and loop.time() > patient_until:
                said = kind
                console.print(f"not ready yet: {escape(reason)}", soft_wrap=True)
            await asyncio.sleep(0.1)
