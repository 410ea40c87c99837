"""`nebula fork`: a sandbox on this machine that continues a log, with simulated engines."""

import asyncio
import shlex
import socket
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from nebula.cli import log_console
from nebula.cli.embedded import embedded, environment
from nebula.cli.log_source import ArchivePast, moment, state_at
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.cli.options import PORT
from nebula.cli.process import fail, on_stop, run
from nebula.cli.supervisor import ChildFailed, Supervisor
from nebula.cli.transfer import check_archive, put
from nebula.events.state import Node, State
from nebula.events.version import reporter
from nebula.events.vocabulary import EngineStopped
from nebula.history.moments import BadMoment, clock
from nebula.history.replay import BadLog
from nebula.schema.parties import RoleName
from nebula.store.archive import BadArchive
from nebula.store.connection import Connection
from nebula.store.importing import NotTaken, OtherHistory
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer

ENGINE = f"{shlex.quote(sys.executable)} -m nebula.engines.simulated --simulate-missing-model"
ALLOWED = [
    *("--allow-source", "*", "--allow-source", "/", "--allow-source", "*://*"),
    *("--allow-option", "*", "--allow-env", "*"),
]
"""The policy of nodes with simulated engines, which run nothing: whatever the real nodes ran."""

MOST_NODES = 32
"""Each is a process of its own."""


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--at", default=None, metavar="SEQ|TIME", help="Continue from this moment [the end].")
@click.option(
    "--folder",
    default=None,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the sandbox [a new folder for temporary files].",
)
@click.option(
    "--port", default=8100, show_default=True, type=PORT, help=("Port of the sandbox's gateway.")
)
@click.option(
    "--nats-port", default=4322, show_default=True, type=PORT, help=("Port of the sandbox's NATS.")
)
@click.option(
    "--engine-command", default=ENGINE, help=("Command that starts an engine [a simulated engine].")
)
@logging_options
def fork(
    source: str,
    at: str | None,
    folder: Path | None,
    port: int,
    nats_port: int,
    engine_command: str,
    logs: LogOptions,
) -> None:
    """Start a sandbox from the exported log FILE: same state, same nodes, simulated engines.

    Ctrl-C ends it. The original cluster is not touched.
    """
    logs.set_up()
    path = Path(source)
    home = folder or Path(tempfile.mkdtemp(prefix="nebula-fork-"))
    if (home / "nats").exists():
        fail(f"{home} holds a NATS store already: give another --folder", 2)
    sandbox = _Sandbox(path, home.resolve(), port, nats_port, engine_command, logs)
    run(_fork(sandbox, at))


class _Sandbox:
    """Where it all is."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        port: int,
        nats_port: int,
        engine: str,
        logs: LogOptions,
    ) -> None:
        self.logs = logs
        self.path = path
        self.folder = folder
        self.port = port
        self.nats_port = nats_port
        self.engine = engine

    def command(self, actor: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "nebula.cli.main", actor, *self.logs.arguments(), *arguments]


async def _fork(sandbox: _Sandbox, at: str | None) -> None:
    try:
        state = await state_at(ArchivePast(sandbox.path), moment(at))
        check_archive(sandbox.path, state.seq)
    except (BadArchive, BadLog, BadMoment) as error:
        fail(str(error))
    nodes = [node for _, node in sorted(state.nodes.items()) if not node.lost and node.devices]
    if len(nodes) > MOST_NODES:
        fail(f"the log has {len(nodes)} nodes: a sandbox runs {MOST_NODES} at most")
    if not _free(sandbox.port):
        fail(f"something listens on port {sandbox.port} already: give another --port")
    console = log_console.console()
    server = embedded(sandbox.folder / "nats", sandbox.nats_port)
    supervisor = Supervisor(sandbox.folder / "logs", server)
    stopping = asyncio.Event()
    on_stop(lambda: (supervisor.hurry if stopping.is_set() else stopping.set)())
    await supervisor.start_server()
    try:
        await _fill(sandbox, server.login("provision"), state)
        _start(sandbox, supervisor, server, nodes)
        _announce(console, sandbox, server.url, state, nodes)
        failing = asyncio.create_task(supervisor.failure())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((failing, stopped), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
    except ChildFailed as error:
        fail(str(error))
    finally:
        stopping.set()
        console.print(f"ending the sandbox; its log and files stay in {sandbox.folder}")
        await supervisor.stop(["gateway"], 10)
        await supervisor.stop([f"node-{node.id}" for node in nodes], 15)
        await supervisor.stop(["router"], 10)
        await supervisor.stop_server()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _fill(sandbox: _Sandbox, url: str, state: State) -> None:
    """Import the log and forget its engines.

    They belong to the original cluster: a node here that found them alive would adopt or end them.
    """
    connection = await Connection(url, "nebula fork", role="provision").open(patience=10)
    try:
        log = await Log(connection, actor="fork").open(patience=15)
        await put(log, sandbox.path, until=state.seq)
        for replica in sorted(state.replicas.values(), key=lambda each: each.id):
            if replica.engine is not None:
                stays = EngineStopped("it stays with the original cluster", node=replica.node)
                await log.append(replica.id, stays, node=reporter(state, stays, replica.node))
    except (OtherHistory, NotTaken) as error:
        fail(str(error))
    finally:
        await connection.close()


def _start(
    sandbox: _Sandbox, supervisor: Supervisor, server: EmbeddedServer, nodes: list[Node]
) -> None:
    def environ(role: RoleName) -> dict[str, str]:
        return environment(role, server, server.url)

    supervisor.start("router", sandbox.command("router"), environ("router"))
    for node in nodes:
        devices = ",".join(f"{each.kind}:{each.memory}" for each in node.devices)
        labels = [f"--label={key}={value}" for key, value in sorted(node.labels.items())]
        line = ["--name", node.id, "--folder", str(sandbox.folder), "--devices", devices]
        line += [*labels, "--grace", "3", "--engine-command", sandbox.engine]
        line += ALLOWED if sandbox.engine == ENGINE else []
        supervisor.start(f"node-{node.id}", sandbox.command("node", *line), environ("node"))
    line = ["--host", "127.0.0.1", "--port", str(sandbox.port), "--grace", "3"]
    line += ["--open", "admin"]
    supervisor.start("gateway", sandbox.command("gateway", *line), environ("gateway"))


def _announce(
    console: Console, sandbox: _Sandbox, url: str, state: State, nodes: list[Node]
) -> None:
    console.print(
        f"[green]sandbox[/green] of {sandbox.path} after event {state.seq} "
        f"({clock(state.time)}), {len(nodes)} nodes, {len(state.models)} models",
        soft_wrap=True,
    )
    console.print(f"  gateway: http://127.0.0.1:{sandbox.port}")
    console.print(f"  NATS:    {url}  (export NEBULA_NATS_URL={url})")
    console.print(f"  files:   {sandbox.folder}", soft_wrap=True)
    console.print("Ctrl-C ends it; the original cluster is not touched.")
