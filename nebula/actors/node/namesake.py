"""Whether another living process runs this node: two would end each other's engines."""

import asyncio
import contextlib
import os
import socket

import msgspec
import psutil
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from nebula.events import subjects
from nebula.events.state import Node
from nebula.events.status import NodeStatus
from nebula.store import streams
from nebula.store.connection import Connection


class NameTaken(Exception):
    """Another process runs the node of this name; the text says which."""


async def refuse_namesake(
    connection: Connection, node: str, known: Node | None, heartbeat: float
) -> None:
    """Raise NameTaken where another process runs this node and lives.

    `known` is the node as the log has it. Whoever could live is listened for, for a little longer
    than from one `heartbeat` (s) to the next; no clock of another machine is asked.
    """
    last = await _last(connection, node)
    if known is None or last is None or last.pid == os.getpid():
        return
    if known.host == socket.gethostname() and not psutil.pid_exists(last.pid):
        return
    heard = asyncio.Event()

    def arrived(_: bytes, __: bytes, body: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            if msgspec.json.decode(body, type=NodeStatus).pid != os.getpid():
                heard.set()

    listening = await connection.client.listen(subjects.node_status(node), arrived)
    try:
        async with asyncio.timeout(1.25 * heartbeat):
            await heard.wait()
    except TimeoutError:
        return
    finally:
        with contextlib.suppress(NatsError):
            await listening.unsubscribe()
    raise NameTaken(
        f"node {node!r} runs already, as process {last.pid} on {known.host or 'another machine'}: "
        "give this one another --name"
    )


async def _last(connection: Connection, node: str) -> NodeStatus | None:
    subject = subjects.node_status(node)
    try:
        message = await connection.client.jetstream().get_last_msg(
            streams.STATUS, subject, direct=True
        )
        return msgspec.json.decode(message.data or b"", type=NodeStatus)
    except (NotFoundError, NatsError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
        return None
