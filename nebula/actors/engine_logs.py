"""Asks a node over NATS for lines of an engine's log."""

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.events import subjects
from nebula.events.advised import command
from nebula.events.reading import decoded
from nebula.store.connection import Connection

ANSWER = 5.0
"""Seconds that a node gets to read a log."""


class NoLog(Exception):
    """A log can't be read, and why. `away`: its node does not answer now."""

    def __init__(self, why: str, *, away: bool = False) -> None:
        super().__init__(why)
        self.away = away


async def ask_log(connection: Connection, node: str, request: LogRequest) -> LogReply:
    """Return lines of an engine's log from the node that it runs on. Raise NoLog."""
    try:
        answer = await connection.client.request(
            subjects.logs(node), msgspec.json.encode(request), timeout=ANSWER
        )
    except (NatsError, TimeoutError) as error:
        if not connection.connected:
            why = connection.trouble or "the connection to NATS is lost"
            raise NoLog(why, away=True) from error
        late = "" if isinstance(error, NoRespondersError) else f" in {ANSWER:.0f} s"
        run = command("node", "--name", node)
        why = f"node {node!r} does not answer{late}: see that {run} runs there"
        raise NoLog(why, away=True) from error
    reply = decoded(answer.data, LogReply)
    if reply is None:
        raise NoLog(
            f"the program that answers for node {node!r} is not a Nebula node, or is one of "
            "another version"
        )
    if reply.error:
        raise NoLog(reply.error)
    return reply
