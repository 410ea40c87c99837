"""The `nebula` command: which commands there are. Each is imported when it is called, not before.

Most of Nebula serves HTTP or runs engines. A command that asks a cluster for its state needs none
of that, and should not spend a second on importing it.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, cast

import click

from nebula.cli.exits import EPILOG, GIVEN, ends_well, refuse_undecoded
from nebula.cli.hints import command_like, explained


class Place(NamedTuple):
    """Where a command is defined, as `module:attribute`, and its line in the list of commands."""

    where: str
    words: str


COMMANDS = {
    "up": Place("nebula.cli.up:up", "Run a whole cluster on this machine, NATS included."),
    "gateway": Place(
        "nebula.cli.gateway:gateway", "Serve OpenAI's API and the admin API over HTTP."
    ),
    "router": Place(
        "nebula.cli.router:router", ("Place models on nodes and send requests to replicas.")
    ),
    "node": Place("nebula.cli.node:node", "Run the engines that are assigned to this machine."),
    "load": Place("nebula.cli.load:load", "Load a model, or change a loaded one."),
    "unload": Place("nebula.cli.models:unload", "Unload a model: end its engines."),
    "scale": Place("nebula.cli.models:scale", "Change a model's number of replicas."),
    "drain": Place("nebula.cli.drain:drain", "Empty a node; its replicas move first."),
    "remove-node": Place("nebula.cli.remove_node:remove_node", "Remove a node for good."),
    "rebalance": Place(
        "nebula.cli.rebalance:rebalance_replicas",
        ("Show which replicas would be better placed elsewhere."),
    ),
    "resilience": Place(
        "nebula.cli.resilience:resilience", "Show what would have no place if a node were lost."
    ),
    "kill": Place("nebula.cli.kill:kill", "In a rehearsal: kill a replica's engine."),
    "capacity": Place(
        "nebula.cli.capacity:capacity",
        "Show how long models lacked room, and what would help.",
    ),
    "models": Place("nebula.cli.models:models", "List the models."),
    "replicas": Place("nebula.cli.models:replicas", "List the replicas and their engines."),
    "nodes": Place("nebula.cli.models:nodes", "List the nodes and their devices."),
    "adapters": Place("nebula.cli.models:adapters", "List, load and unload LoRA adapters."),
    "weights": Place("nebula.cli.weights:weights", "List, keep and remove models' files on nodes."),
    "alias": Place("nebula.cli.alias:alias", "Let a name stand for models, each with a share."),
    "aliases": Place(
        "nebula.cli.alias:aliases", ("List the aliases, and which models get their requests.")
    ),
    "batch": Place("nebula.cli.batch:batch", "Answer every line of a file, as there is room."),
    "requests": Place(
        "nebula.cli.requests_in_flight:requests", "List the requests in flight; cancel one."
    ),
    "capture": Place(
        "nebula.cli.capture:capture", "Capture requests for a while, redacted, and read them."
    ),
    "key": Place("nebula.cli.key:key", "Issue, list, change, rotate and revoke API keys."),
    "login": Place("nebula.cli.login:login", "Sign in, and keep a short-lived API key."),
    "logout": Place("nebula.cli.login:logout", "Revoke the key of `nebula login`."),
    "usage": Place("nebula.cli.usage:usage", "Show how many tokens were used, by key and model."),
    "limits": Place("nebula.cli.limits:limits", "Set and list limits of tenants and models."),
    "status": Place(
        "nebula.cli.models:status", ("Show the whole cluster, and what is wrong with it.")
    ),
    "top": Place("nebula.cli.top.command:top", "Watch the cluster, now or in the past."),
    "logs": Place("nebula.cli.logs:logs", "Print an engine's log, wherever it runs."),
    "state": Place("nebula.cli.inspect:state", "Show the cluster as it was at a moment."),
    "diff": Place("nebula.cli.inspect:diff", "Show what changed, or differs from a file."),
    "dump": Place("nebula.cli.cluster_file:dump", "Print what is to be served, as a file."),
    "apply": Place("nebula.cli.apply:apply", "Make the cluster as a file says, after its plan."),
    "events": Place("nebula.cli.inspect:events", "List the events of all or some aggregates."),
    "why": Place("nebula.cli.explain:why", "Explain the state of a model, an event or a request."),
    "replay": Place("nebula.cli.replay:replay", "Fold a log again and check its decisions."),
    "console": Place(
        "nebula.cli.console:console", "Open the web console, also of an exported log."
    ),
    "export": Place("nebula.cli.transfer:export_log", "Write the log to a file."),
    "import": Place(
        "nebula.cli.transfer:import_log", ("Write an exported log into an empty cluster.")
    ),
    "log": Place("nebula.cli.log:log", "Found the log anew without a secret."),
    "snapshots": Place(
        "nebula.cli.transfer:snapshots", "List, check and make snapshots of the log."
    ),
    "provision": Place("nebula.cli.provision:provision", "Create the log on NATS servers."),
    "auth": Place("nebula.cli.auth:auth", "Manage the credentials for NATS."),
    "fork": Place("nebula.cli.fork:fork", "Start a sandbox that continues an exported log."),
    "revert": Place("nebula.cli.revert:revert_to", "Return models to an earlier state."),
    "schema": Place("nebula.cli.schema:schema", "Print JSON Schema of events, or AsyncAPI."),
}
"""All commands by their names."""


@contextmanager
def _without_websockets() -> Iterator[None]:
    """Keep nats-py from importing aiohttp, unless a URL of NATS needs it: ws:// or wss://.

    nats-py imports it if vLLM has installed it, which doubles the time of all imports.
    """
    urls = " ".join((*sys.argv, os.environ.get("NEBULA_NATS_URL", "")))
    if "aiohttp" in sys.modules or any(kind in urls for kind in ("ws:", "wss:", "file:")):
        yield
        return
    modules: dict[str, ModuleType | None] = cast("dict[str, ModuleType | None]", sys.modules)
    modules["aiohttp"] = None
    try:
        yield
    finally:
        del modules["aiohttp"]


@contextmanager
def _without_garbage_collection(module: str) -> Iterator[None]:
    """Collect no garbage while a module is first imported, and none of what it brings afterwards.

    All modules last as long as the process. Collections that go through them in vain took a third
    of the start of a command, and up to 50 ms each time from a gateway that serves.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Lazy(click.Group):
    """A group that imports a command when it is called, and lists all without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands in this order: actors, models, the past."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; return None if no command has that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.where.partition(":")
        with _without_websockets(), _without_garbage_collection(module):
            command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.words) for name, place in COMMANDS.items()])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the arguments, and print help if it is asked for; see `invoke`."""
        with ends_well():
            refuse_undecoded(args, os.environ)
            given = tuple(args)
            context = super().make_context(info_name, args, parent, **extra)
            context.meta[GIVEN] = given
            return context

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; if it is ended from outside, print one line and return an exit code."""
        with ends_well():
            try:
                return super().invoke(ctx)
            except click.NoSuchOption as error:
                raise explained(error, ctx.meta[GIVEN]) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for an unknown name, say which command may have been meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(
                f"No such command {name!r}.{command_like(name, COMMANDS)}", ctx=ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(package_name="nebula-serving", prog_name="nebula")
def main() -> None:
    """Many vLLM engines on many machines behind one OpenAI-compatible address."""


if __name__ == "__main__":
    main()
