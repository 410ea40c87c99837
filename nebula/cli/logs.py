"""`nebula logs`: lines of an engine's log, read by the node that it runs on."""

import asyncio
import sys

import click
import msgspec
from nats.errors import Error as NatsError

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.actors.projection import Projection
from nebula.cli.cluster import joined
from nebula.cli.options import nats_option
from nebula.cli.process import fail, run
from nebula.events import subjects
from nebula.events.objections import model_by_reference


@click.command()
@click.argument("replica")
@nats_option
@click.option("-n", "--lines", default=100, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
def logs(replica: str, nats: str, lines: int, follow: bool) -> None:
    """Print the engine's log of REPLICA, wherever it runs; a model's id means its first replica."""
    run(_logs(nats, replica, lines, follow))


async def _logs(nats: str, reference: str, lines: int, follow: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        replica = state.replicas.get(reference)
        if replica is None:
            model = model_by_reference(state, reference)
            replica = next(state.replicas_of(model), None) if model is not None else None
        if replica is None:
            there = ", ".join(sorted(state.replicas)) or "none"
            fail(f"there is no replica {reference!r}; there are: {there}")
        reply = await _ask_log(projection, replica.node, LogRequest(replica.id, lines))
        sys.stdout.write(reply.text)
        sys.stdout.flush()
        while follow:
            await asyncio.sleep(0.5)
            request = LogRequest(replica.id, offset=reply.offset)
            reply = await _ask_log(projection, replica.node, request)
            sys.stdout.write(reply.text)
            sys.stdout.flush()


async def _ask_log(projection: Projection, node: str, request: LogRequest) -> LogReply:
    client = projection.log.connection.client
    try:
        answer = await client.request(subjects.logs(node), msgspec.json.encode(request), timeout=5)
    except (NatsError, TimeoutError):
        fail(f"node {node!r} does not answer")
    reply = msgspec.json.decode(answer.data, type=LogReply)
    if reply.error:
        fail(reply.error)
    return reply
