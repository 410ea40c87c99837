"""Options that several commands share, with their environment variables."""

import shlex
from pathlib import Path
from typing import Any

import click

from nebula.actors.node.starting import AT_MOST, LIMIT
from nebula.actors.router import loss
from nebula.cli.elsewhere import DEFAULT_NATS
from nebula.events import memory
from nebula.events.inference import LOAD_PATIENCE
from nebula.http.origins import objection_to_host, plain_origin
from nebula.http.server.listening import NotAHost, addresses


class Whole(click.IntRange):
    """A whole number in a range; other text is refused with a clear message."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number. click itself would say "not a valid integer range" of other text."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return int(super().convert(number, param, ctx))


class Amount(click.ParamType[int]):
    """An amount of bytes as people write it, such as 20GiB; `least`: the smallest allowed one."""

    name = "size"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            amount = memory.parse(value)
        except ValueError as error:
            self.fail(str(error).removeprefix("memory: "), param, ctx)
        if amount < self._least:
            self.fail(f"{value} is too little: {memory.text(self._least)} at least", param, ctx)
        return amount


class Numbered(click.Command):
    """A command with a number as argument: a negative number is out of range, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; those that look like negative numbers come last."""
        negative = [each for each in args if each[:1] == "-" and each[1:].isdecimal()]
        if negative and "--" not in args:
            args = [*(each for each in args if each not in negative), "--", *negative]
        return super().parse_args(ctx, args)


_SCHEMES = ("nats", "tls", "ws", "wss")


def not_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty URL (from an unset shell variable) and a URL of the web."""
    if value is None:
        return value
    if not value.strip():
        raise click.BadParameter("it is empty: write it like nats://127.0.0.1:4222")
    for url in value.split(","):
        scheme, there, _rest = url.strip().partition("://")
        if there and scheme not in _SCHEMES and not url.startswith("file:"):
            raise click.BadParameter(
                f"{scheme}:// is not what NATS speaks: write it like nats://127.0.0.1:4222"
            )
    return value


def detectable(_: click.Context, __: click.Parameter, value: float) -> float:
    """Refuse a time for which a healthy node may be silent."""
    if 0 < value < loss.LEAST_LOST_AFTER:
        raise click.BadParameter(
            f"{value:g} s would lose healthy nodes: one whose NATS server vanishes is silent until "
            f"it has noticed and reached another; {loss.LEAST_LOST_AFTER:g} or more, or 0 for never"
        )
    return value


def _hosts(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse text that is not a host."""
    for host in value:
        wrong = objection_to_host(host)
        if wrong:
            raise click.BadParameter(wrong)
    return value


def _origins(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return origins as browsers write them; refuse text that is not an origin."""
    try:
        return tuple(plain_origin(each) for each in value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _secret_command(_: click.Context, __: click.Parameter, value: str) -> str:
    """Refuse a command that could not print each secret."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a command: {error}") from error
    if words and not any("{name}" in word for word in words[1:]):
        raise click.BadParameter(
            f"{value!r} does not say which secret it prints: write {{name}} where its name belongs"
        )
    return value


PORT = Whole(1, 65535)

nats_option = click.option(
    "--nats",
    envvar="NEBULA_NATS_URL",
    default=DEFAULT_NATS,
    show_default=True,
    metavar="URL",
    callback=not_empty,
    help="NATS server, or several of a cluster joined by commas. [env: NEBULA_NATS_URL]",
)
stream_replicas_option = click.option(
    "--stream-replicas",
    envvar="NEBULA_STREAM_REPLICAS",
    default=1,
    show_default=True,
    type=Whole(1, 5),
    help="Number of NATS servers that keep the log; 3 for a cluster. [env: NEBULA_STREAM_REPLICAS]",
)
folder_option = click.option(
    "--folder",
    envvar="NEBULA_HOME",
    default=Path(".nebula"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the embedded log and of the engines' log files. [env: NEBULA_HOME]",
)
engine_command_option = click.option(
    "--engine-command",
    envvar="NEBULA_ENGINE_COMMAND",
    default=None,
    metavar="COMMAND",
    help=(
        "Command that starts an engine [vLLM in Nebula's own environment]. [env: "
        "NEBULA_ENGINE_COMMAND]"
    ),
)
cluster_option = click.option(
    "--cluster",
    envvar="NEBULA_CLUSTER",
    default="",
    metavar="NAME",
    help=(
        "Name or id of the cluster to join; if there is none, it is founded under that name. "
        "Another cluster on this NATS is an error. [env: NEBULA_CLUSTER]"
    ),
)
lost_after_option = click.option(
    "--lost-after",
    envvar="NEBULA_LOST_AFTER",
    default=loss.LOST_AFTER,
    show_default=True,
    type=click.FloatRange(min=0),
    callback=detectable,
    help=(
        "Seconds without a heartbeat after which a node counts as lost and its replicas are "
        "placed elsewhere; 20 or more, 0: never. [env: NEBULA_LOST_AFTER]"
    ),
)
weights_option = click.option(
    "--weights-folder",
    "weights",
    envvar="NEBULA_WEIGHTS_FOLDER",
    default=None,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the models from the hub [HF_HUB_CACHE]. [env: NEBULA_WEIGHTS_FOLDER]",
)
fetch_option = click.option(
    "--fetch/--no-fetch",
    default=True,
    show_default=True,
    help="Fetch a model's files before its engine starts, or let the engine do it.",
)
secrets_folder_option = click.option(
    "--secrets-folder",
    envvar="NEBULA_SECRETS_FOLDER",
    default=None,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the secrets that load requests name, a file NAME for each, which only its "
    "owner may read [`secrets` in --folder]. [env: NEBULA_SECRETS_FOLDER]",
)
secret_command_option = click.option(
    "--secret-command",
    envvar="NEBULA_SECRET_COMMAND",
    default="",
    metavar="COMMAND",
    callback=_secret_command,
    help="Command that prints a secret which is in no file, such as 'pass show nebula/{name}'. "
    "[env: NEBULA_SECRET_COMMAND]",
)
allowed_host_option = click.option(
    "--allowed-host",
    "allowed_hosts",
    envvar="NEBULA_ALLOWED_HOSTS",
    multiple=True,
    metavar="HOST",
    callback=_hosts,
    help="A further name under which the gateway is asked, such as a proxy's that keeps its Host: "
    "NAME, NAME:PORT, *.NAME, or * for any; repeatable. [env: NEBULA_ALLOWED_HOSTS]",
)
allow_origin_option = click.option(
    "--allow-origin",
    "allowed_origins",
    envvar="NEBULA_ALLOWED_ORIGINS",
    multiple=True,
    metavar="URL",
    callback=_origins,
    help="Let web pages of another origin, such as https://app.example, use /v1 in a browser; "
    "* lets all pages use it and read the answers. It never opens /admin. Repeatable. "
    "[env: NEBULA_ALLOWED_ORIGINS]",
)
load_timeout_option = click.option(
    "--load-timeout",
    default=LOAD_PATIENCE,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds a request waits for a replica of its model: one that loads or wakes, or a turn. "
    "X-Request-Timeout of a request can make that shorter.",
)
keep_alive_option = click.option(
    "--keep-alive",
    default=120,
    show_default=True,
    type=Whole(1, 86_400),
    help=(
        "Seconds that a client's connection may be idle before it is closed: longer than "
        "proxies and clients keep theirs."
    ),
)


def _valid_host(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        addresses(value, 0)
    except NotAHost as error:
        raise click.BadParameter(str(error)) from error
    return value


host_option = click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=_valid_host,
    help="Address or name to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv6 and IPv4.",
)
name_option = click.option(
    "--name", default=None, help=("Name of the node [this machine's host name].")
)
label_option = click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the node; repeatable."
)
grace_option = click.option(
    "--grace",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that an engine gets to end by itself.",
)
requests_grace_option = click.option(
    "--grace",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="When stopped: seconds that running requests get to end before they fail.",
)
whole_grace_option = click.option(
    "--grace",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help=(
        "When stopped: seconds that running requests get to end, and then the same time again "
        "for engines. An engine gets this time whenever it is ended."
    ),
)
drain_option = click.option(
    "--drain",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that running requests get to end in an engine that is no longer wanted.",
)
restart_limit_option = click.option(
    "--restart-limit",
    default=3,
    show_default=True,
    help="Failed starts in a row after which an engine is given up; 1: none is started again.",
)
restart_pause_option = click.option(
    "--restart-pause",
    default=1.0,
    show_default=True,
    help=(
        "Seconds before a failed engine's first restart, or before a broken download continues; "
        "doubled each time."
    ),
)
log_limit_option = click.option(
    "--log-limit",
    envvar="NEBULA_LOG_LIMIT",
    default=None,
    type=Amount(),
    metavar="SIZE",
    help="Size limit of the embedded log's files, such as 20GiB [the disk]. "
    "[env: NEBULA_LOG_LIMIT]",
)
log_warning_option = click.option(
    "--log-warning",
    envvar="NEBULA_LOG_WARNING",
    default="1GiB",
    show_default=True,
    type=Amount(),
    metavar="SIZE",
    help=(
        "Free space for the embedded log below which a warning is logged; on disks smaller than "
        "ten times that, a tenth of the disk. [env: NEBULA_LOG_WARNING]"
    ),
)
engine_log_limit_option = click.option(
    "--engine-log-limit",
    envvar="NEBULA_ENGINE_LOG_LIMIT",
    default="64MiB",
    show_default=True,
    type=Amount(least=memory.MIB),
    metavar="SIZE",
    help=(
        "Size at which an engine's log file is rotated while the engine runs; one previous file "
        "is kept. [env: NEBULA_ENGINE_LOG_LIMIT]"
    ),
)
start_limit_option = click.option(
    "--start-limit",
    default=LIMIT,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds without output after which a starting engine is ended as failed "
    f"(after {AT_MOST} times as long even with output); 0: never.",
)
stall_limit_option = click.option(
    "--stall-limit",
    envvar="NEBULA_STALL_LIMIT",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help=(
        "Seconds for which an engine with requests may make no progress before it is restarted. "
        "0: never. [env: NEBULA_STALL_LIMIT]"
    ),
)
rehearsal_option = click.option(
    "--rehearsal",
    is_flag=True,
    envvar="NEBULA_REHEARSAL",
    help="This is a rehearsal: let operators kill the engines of this node, to see requests go on "
    "without them. [env: NEBULA_REHEARSAL]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
