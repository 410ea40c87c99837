"""`nebula provision`: create the log on NATS servers where no actor may do so."""

import click

from nebula.cli.cluster import connected
from nebula.cli.options import nats_option, stream_replicas_option
from nebula.cli.process import run
from nebula.store.log import Log

PATIENCE = 15.0
"""Seconds for JetStream to create the streams."""


@click.command()
@nats_option
@stream_replicas_option
def provision(nats: str, stream_replicas: int) -> None:
    """Create the log and the streams in memory, or check them.

    Where NATS has no users, the first actor does this by itself.
    """
    run(_provision(nats, stream_replicas))


async def _provision(nats: str, replicas: int) -> None:
    connection = await connected(nats, "nebula provision", role="provision")
    try:
        last = await (await Log(connection, replicas=replicas).open(patience=PATIENCE)).last_seq()
    finally:
        await connection.close()
    click.echo(f"the log is there, with {last} events")
