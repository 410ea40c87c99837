"""The `nebula` command: where everything is wired together, and only here."""

import click

from nebula.cli import explain, fork, look, move, operate, replay, revert, serve
from nebula.cli.alias import alias, aliases
from nebula.cli.drain import drain
from nebula.cli.load import load
from nebula.cli.logs import logs
from nebula.cli.rebalance import rebalance_replicas
from nebula.cli.schema import schema
from nebula.cli.up import up
from nebula.cli.weights import weights


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nebula-serving", prog_name="nebula")
def main() -> None:
    """Many vLLM engines on many machines behind one OpenAI-compatible address."""


for command in (
    up,
    serve.gateway,
    serve.router,
    serve.node,
    load,
    operate.unload,
    operate.scale,
    drain,
    rebalance_replicas,
    operate.models,
    operate.replicas,
    operate.nodes,
    operate.adapters,
    weights,
    alias,
    aliases,
    operate.status,
    logs,
    look.state,
    look.diff,
    look.events,
    explain.why,
    replay.replay,
    move.export_log,
    move.import_log,
    move.snapshots,
    fork.fork,
    revert.revert_to,
    schema,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
