"""The options of `nebula node` and `nebula up` that keep engines apart from all else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nebula.actors.node.policy import reading
from nebula.actors.node.policy.rules import NodePolicy
from nebula.cli.process import FATAL, fail

_OPTIONS = (
    click.option(
        "--policy",
        envvar="NEBULA_POLICY",
        default=None,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File (TOML, or JSON as *.json) that says what load requests may use on this node. "
        "[env: NEBULA_POLICY]",
    ),
    click.option(
        "--allow-source",
        "sources",
        multiple=True,
        metavar="SOURCE",
        help="Where models and adapters may come from: hub ids, such as 'org/*', or a folder with "
        "all in it; repeatable [any hub id or folder, but none of the system's].",
    ),
    click.option(
        "--allow-option",
        "options",
        multiple=True,
        metavar="OPTION",
        help="An option of vLLM that load requests may use beyond those that tune an engine, such "
        "as trust-remote-code; repeatable.",
    ),
    click.option(
        "--allow-env",
        "variables",
        multiple=True,
        metavar="NAME",
        help="An environment variable that load requests may set beyond those that tune an "
        "engine; repeatable.",
    ),
)


_engine_listen = click.option(
    "--engine-listen",
    envvar="NEBULA_ENGINE_LISTEN",
    default="socket",
    show_default=True,
    type=click.Choice(["socket", "port"]),
    help="Where engines listen: on Unix sockets that only the node's user may reach, or on TCP "
    "ports of 127.0.0.1, with a key for each engine. [env: NEBULA_ENGINE_LISTEN]",
)


_kv_events = click.option(
    "--kv-events/--no-kv-events",
    envvar="NEBULA_KV_EVENTS",
    default=False,
    show_default=True,
    help="Have engines publish what their KV caches hold, so that routers hear what is evicted. It "
    "needs vLLM 0.32. [env: NEBULA_KV_EVENTS]",
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a node's owner decides of all its engines to a command."""
    return _engine_listen(_kv_events(command))


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a node's policy to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def policy_of(
    file: Path | None,
    sources: tuple[str, ...],
    options: tuple[str, ...],
    variables: tuple[str, ...],
) -> NodePolicy:
    """Return the policy that these options give; end the program if its file can't be read."""
    try:
        known = reading.read(file) if file is not None else NodePolicy()
    except reading.BadPolicy as error:
        fail(f"--policy: {error}", FATAL)
    return reading.extended(known, sources, options, variables)


def arguments(
    file: Path | None,
    sources: tuple[str, ...],
    options: tuple[str, ...],
    variables: tuple[str, ...],
) -> list[str]:
    """Return the command line that gives another process the same options."""
    policy_of(file, sources, options, variables)
    line = ["--policy", str(file.absolute())] if file is not None else []
    for flag, values in (
        ("--allow-source", sources),
        ("--allow-option", options),
        ("--allow-env", variables),
    ):
        line += [argument for value in values for argument in (flag, value)]
    return line
