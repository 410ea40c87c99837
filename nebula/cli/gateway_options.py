"""Options of `nebula gateway` and `nebula up`: where a gateway is reached, and without a key."""

import re
from pathlib import Path
from typing import cast, get_args

import click
from click.core import ParameterSource

from nebula.cli.options import Whole
from nebula.events.key_events import Scope
from nebula.http import root_path
from nebula.http.origins import is_loopback
from nebula.http.root_path import NotARoot
from nebula.http.server.listening import HostPort
from nebula.http.server.unix_sockets import MODE, UnixSocket

NOTHING = "none"
"""Stands for no scope."""


def place(host: str, port: int, uds: Path | None, mode: int) -> HostPort | UnixSocket:
    """Return where a gateway listens. End the program if it is told two places."""
    if uds is None:
        return HostPort(host, port)
    source = click.get_current_context().get_parameter_source
    for name in ("host", "port"):
        if source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--uds is instead of --host and --port, and --{name} is given")
    return UnixSocket(uds, mode)


def place_arguments(host: str, port: int, uds: Path | None, mode: int) -> tuple[str, ...]:
    """Return a place as arguments of another process."""
    if uds is None:
        return ("--host", host, "--port", str(port))
    return ("--uds", str(uds.absolute()), "--uds-mode", f"{mode:o}")


def open_scopes(given: tuple[str, ...], where: HostPort | UnixSocket) -> tuple[Scope, ...]:
    """Return what a gateway answers without a key: inference where only this machine gets."""
    if given:
        return cast("tuple[Scope, ...]", tuple(each for each in given if each != NOTHING))
    local = isinstance(where, UnixSocket) or is_loopback(where.host)
    return ("infer",) if local else ()


def _mode(_: click.Context, __: click.Parameter, text: str) -> int:
    """Return the permissions that octal digits stand for."""
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise click.BadParameter(f"{text!r} is not a mode such as 600, 660 or 666")
    return int(text, 8)


def _root(_: click.Context, __: click.Parameter, text: str) -> str:
    try:
        return root_path.plain(text)
    except NotARoot as error:
        raise click.BadParameter(str(error)) from error


open_option = click.option(
    "--open",
    "opened",
    multiple=True,
    envvar="NEBULA_OPEN",
    type=click.Choice((*get_args(Scope), NOTHING)),
    help="What to answer without an API key; `none` for nothing. Repeatable. [infer on a loopback "
    "address or a Unix socket, none elsewhere] [env: NEBULA_OPEN]",
)
leases_option = click.option(
    "--leases/--no-leases",
    default=True,
    show_default=True,
    envvar="NEBULA_LEASES",
    help="Ask routers for leases of replicas, and send requests to these directly as long as none "
    "waits; or send all through routers. [env: NEBULA_LEASES]",
)
workers_option = click.option(
    "--workers",
    default=1,
    show_default=True,
    type=Whole(1, 64),
    envvar="NEBULA_WORKERS",
    help="Processes that answer at this address, each a gateway of its own: more than one where a "
    "core is not enough. They share --request-memory and --answer-memory. [env: NEBULA_WORKERS]",
)
root_path_option = click.option(
    "--root-path",
    default="",
    metavar="PATH",
    envvar="NEBULA_ROOT_PATH",
    callback=_root,
    help="The prefix under which a proxy shows the gateway, such as /llm, whether or not the proxy "
    "removes it. [env: NEBULA_ROOT_PATH]",
)
uds_option = click.option(
    "--uds",
    default=None,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Listen on this Unix socket, and on no port.",
)
uds_mode_option = click.option(
    "--uds-mode",
    default=f"{MODE:o}",
    show_default=True,
    metavar="MODE",
    callback=_mode,
    help="Permissions of the Unix socket's file, as for chmod: connecting needs write.",
)
