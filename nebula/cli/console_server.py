"""Serves the console over an exported log, on this machine only."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import click

from nebula.cli.process import fail, on_stop, run
from nebula.cli.quiet_server import server_beside
from nebula.history.replay import BadLog
from nebula.http.console.file_log import FileLog
from nebula.http.console.log_app import create_log_app
from nebula.store.archive import BadArchive


def serve_log(path: Path, port: int, show: Callable[[str], object] | None) -> None:
    """Serve the console of a log until a signal; `show` its address to the user, in a browser."""
    run(_serve(path, port, show))


async def _serve(path: Path, port: int, show: Callable[[str], object] | None) -> None:
    click.echo(f"Reading {path} …", err=True)
    try:
        past = FileLog(path)
    except (BadArchive, BadLog) as error:
        fail(str(error))
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()  # its address is told before the server runs
    except OSError as error:
        fail(f"can't listen on 127.0.0.1:{port}: {error.strerror}")
    server = server_beside(create_log_app(past), http="httptools")

    def stopped() -> None:
        past.leaving.set()
        server.stop()

    on_stop(stopped)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/console"
    click.echo(f"{path}: events 1 to {past.state.seq}, at {address} (Ctrl-C ends it)")
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    if show is not None:
        await asyncio.to_thread(show, address)
    await serving
