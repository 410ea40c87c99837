"""Options that several commands share, with the environment variables that stand for them."""

from pathlib import Path
from typing import Any

import click

from nebula.actors.node.starting import AT_MOST, LIMIT
from nebula.actors.router import loss
from nebula.events import memory


class Whole(click.IntRange):
    """A whole number in a range; what is none is told in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it. A range of click's says "is not a valid integer range" of what is no number."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        return int(super().convert(number, param, ctx))


class Amount(click.ParamType[int]):
    """An amount of bytes as people write it, such as 20GiB; `least`: what it must be."""

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
    """A command with a number among its arguments: a negative one is no option but out of range."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, those that look like negative numbers after all others."""
        negative = [each for each in args if each[:1] == "-" and each[1:].isdecimal()]
        if negative and "--" not in args:
            args = [*(each for each in args if each not in negative), "--", *negative]
        return super().parse_args(ctx, args)


def not_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty URL, as a shell makes of a variable that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty: write it like nats://127.0.0.1:4222")
    return value


def detectable(_: click.Context, __: click.Parameter, value: float) -> float:
    """Refuse a time in which a healthy node may well be silent."""
    if 0 < value < loss.LEAST_LOST_AFTER:
        raise click.BadParameter(
            f"{value:g} s would lose healthy nodes: one whose NATS server vanishes is silent until "
            f"it has noticed and reached another; {loss.LEAST_LOST_AFTER:g} or more, or 0 for never"
        )
    return value


PORT = Whole(1, 65535)
DEFAULT_NATS = "nats://127.0.0.1:4222"

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
    help="On how many NATS servers the log is kept; 3 for a cluster. [env: NEBULA_STREAM_REPLICAS]",
)
folder_option = click.option(
    "--folder",
    envvar="NEBULA_HOME",
    default=Path(".nebula"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded log and the engines' log files are kept. [env: NEBULA_HOME]",
)
engine_command_option = click.option(
    "--engine-command",
    envvar="NEBULA_ENGINE_COMMAND",
    default=None,
    metavar="COMMAND",
    help="What starts an engine [vLLM in Nebula's own environment]. [env: NEBULA_ENGINE_COMMAND]",
)
cluster_option = click.option(
    "--cluster",
    envvar="NEBULA_CLUSTER",
    default="",
    metavar="NAME",
    help="Name or id of the cluster to join; a new one is founded under that name. Ends where NATS "
    "has another. [env: NEBULA_CLUSTER]",
)
lost_after_option = click.option(
    "--lost-after",
    envvar="NEBULA_LOST_AFTER",
    default=loss.LOST_AFTER,
    show_default=True,
    type=click.FloatRange(min=0),
    callback=detectable,
    help="Seconds without a heartbeat after which a node counts as lost and what it had is placed "
    "elsewhere; 20 or more, 0: never. [env: NEBULA_LOST_AFTER]",
)
weights_option = click.option(
    "--weights-folder",
    "weights",
    envvar="NEBULA_WEIGHTS_FOLDER",
    default=None,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where models from the hub are kept [HF_HUB_CACHE]. [env: NEBULA_WEIGHTS_FOLDER]",
)
fetch_option = click.option(
    "--fetch/--no-fetch",
    default=True,
    show_default=True,
    help="Fetch a model's files before its engine starts, or let the engine do it.",
)
load_patience_option = click.option(
    "--load-patience",
    default=30.0,
    show_default=True,
    help="Seconds a request waits for a model that is loading.",
)
name_option = click.option("--name", default=None, help="The node's id [this machine's host name].")
label_option = click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the node; repeatable."
)
grace_option = click.option(
    "--grace", default=20.0, show_default=True, help="Seconds an engine gets to end by itself."
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
    help="Starts in a row after which an engine that fails is given up.",
)
restart_pause_option = click.option(
    "--restart-pause",
    default=1.0,
    show_default=True,
    help="Seconds before the first restart, or a broken download goes on; doubled each time.",
)
log_limit_option = click.option(
    "--log-limit",
    envvar="NEBULA_LOG_LIMIT",
    default=None,
    type=Amount(),
    metavar="SIZE",
    help="Most that the embedded log's files may take, such as 20GiB [the disk]. "
    "[env: NEBULA_LOG_LIMIT]",
)
log_warning_option = click.option(
    "--log-warning",
    envvar="NEBULA_LOG_WARNING",
    default="1GiB",
    show_default=True,
    type=Amount(),
    metavar="SIZE",
    help="Room left for the embedded log below which it is told, on disks of less than ten times "
    "that below a tenth. [env: NEBULA_LOG_WARNING]",
)
engine_log_limit_option = click.option(
    "--engine-log-limit",
    envvar="NEBULA_ENGINE_LOG_LIMIT",
    default="64MiB",
    show_default=True,
    type=Amount(least=memory.MIB),
    metavar="SIZE",
    help="Most that an engine's log file may have before it is turned over, while the engine runs, "
    "to a second one, which holds the part before. [env: NEBULA_ENGINE_LOG_LIMIT]",
)
start_limit_option = click.option(
    "--start-limit",
    default=LIMIT,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that an engine may write nothing while it starts, before it is ended as failed "
    f"(after {AT_MOST} times as long whatever it writes); 0: for ever.",
)
stall_limit_option = click.option(
    "--stall-limit",
    envvar="NEBULA_STALL_LIMIT",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds for which an engine may have work and make no progress; then it is ended and "
    "started anew. 0: never. [env: NEBULA_STALL_LIMIT]",
)
verbose_option = click.option("--verbose", is_flag=True, help="Log more.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
