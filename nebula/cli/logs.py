"""`nebula logs`: lines of an engine's log, read by the node that it runs on."""

import asyncio
import sys

import click

from nebula.actors.engine_logs import NoLog, ask_log
from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.actors.projection import Projection
from nebula.cli.cluster import joined
from nebula.cli.options import nats_option
from nebula.cli.process import fail, run
from nebula.events.masking import masked
from nebula.events.showing import shown_text
from nebula.events.validation import model_by_reference
from nebula.history.subject import other_than_model


@click.command()
@click.argument("replica")
@nats_option
@click.option("-n", "--lines", default=100, show_default=True, help="Number of lines.")
@click.option("-f", "--follow", is_flag=True, help="Continue as the log grows.")
def logs(replica: str, nats: str, lines: int, follow: bool) -> None:
    """Print the log of REPLICA's engine, wherever it runs; a model's id means its first replica."""
    run(_logs(nats, replica, lines, follow))


async def _logs(nats: str, reference: str, lines: int, follow: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        replica = state.replicas.get(reference)
        if replica is None:
            model = model_by_reference(state, reference)
            replica = next(iter(state.replicas_of(model)), None) if model is not None else None
        if replica is None:
            other = other_than_model(state, reference)
            if other:
                fail(other)
            there = ", ".join(sorted(state.replicas)) or "none"
            fail(f"there is no replica {reference!r}; there are: {there}")
        reply = await _asked(projection, replica.node, LogRequest(replica.id, lines))
        _write(reply.text)
        while follow:
            await asyncio.sleep(0.5)
            request = LogRequest(replica.id, offset=reply.offset)
            reply = await _asked(projection, replica.node, request)
            _write(reply.text)


def _write(text: str) -> None:
    """Write an engine's text without secrets, and to a terminal without control characters."""
    sys.stdout.write(shown_text(text) if sys.stdout.isatty() else masked(text))
    sys.stdout.flush()


async def _asked(projection: Projection, node: str, request: LogRequest) -> LogReply:
    try:
        return await ask_log(projection.log.connection, node, request)
    except NoLog as error:
        fail(str(error))
