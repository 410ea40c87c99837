"""Whether another living process runs this node: two would end each other's engines.

Silence is not a verdict. A node answers requests for its engines' logs, so NATS itself says whether
anybody does; the stream of heartbeats only tells which process it was.
"""

import asyncio
import contextlib
import os
import socket

import msgspec
import psutil
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from nebula.events import subjects
from nebula.events.state import Node
from nebula.events.status import NodeStatus
from nebula.store import streams
from nebula.store.connection import Connection, Unavailable

UNSURE = 15.0
"""Seconds until a start is given up where it can't be known whether another process lives."""

_ANSWER = 1.0  # seconds


class NameTaken(Exception):
    """Another process runs the node of this name; the text says which."""


class Unsure(Unavailable):
    """It can't be known whether another process runs the node of this name."""


async def refuse_namesake(
    connection: Connection, node: str, known: Node | None, heartbeat: float
) -> None:
    """Return once it is known that no other process runs this node.

    Whoever could live is asked, and listened for, for a little longer than from one heartbeat to
    the next; no clock of another machine is asked.

    Args:
        connection: to NATS.
        node: the node's name.
        known: the node as the log has it; None where no process has ever run it.
        heartbeat: seconds from one to the next.

    Raise NameTaken where another process lives; Unsure where one listens under the node's name that
    does not answer, or NATS can't be asked, for UNSURE seconds.
    """
    if known is None:
        return
    last = await _last(connection, node)
    heard = asyncio.Event()

    def arrived(_: bytes, __: bytes, body: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            if msgspec.json.decode(body, type=NodeStatus).pid != os.getpid():
                heard.set()

    loop = asyncio.get_running_loop()
    began = loop.time()
    listening = await connection.client.listen(subjects.node_status(node), arrived)
    try:
        while True:
            lives = await _answers(connection, node)
            if heard.is_set() or lives:
                raise NameTaken(_taken(node, known, last))
            passed = loop.time() - began
            if lives is False and (_dead(last, known) or passed >= 1.25 * heartbeat):
                return
            if passed >= UNSURE:
                raise Unsure(
                    f"it can't be known whether another process runs node {node!r}: one listens "
                    "under this name in NATS, or NATS can't tell, and does not answer"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await heard.wait()
    finally:
        with contextlib.suppress(NatsError):
            await listening.unsubscribe()


def _taken(node: str, known: Node, last: NodeStatus | None) -> str:
    process = f"process {last.pid}" if last is not None else "a process"
    return (
        f"node {node!r} runs already, as {process} on {known.host or 'another machine'}: "
        "give this one another --name"
    )


def _dead(last: NodeStatus | None, known: Node) -> bool:
    """Return whether the process that was heard of last was on this machine, and has ended."""
    if last is None or known.host != socket.gethostname():
        return False
    return last.pid == os.getpid() or not psutil.pid_exists(last.pid)


async def _answers(connection: Connection, node: str) -> bool | None:
    """Ask whoever runs the node; None where somebody listens or NATS can't tell, and is silent."""
    if not connection.connected:
        return None
    try:
        await connection.client.request(subjects.logs(node), b"", timeout=_ANSWER)
    except NoRespondersError:
        return False
    except (NatsError, TimeoutError):
        return None
    return True


async def _last(connection: Connection, node: str) -> NodeStatus | None:
    subject = subjects.node_status(node)
    try:
        message = await connection.client.jetstream().get_last_msg(
            streams.STATUS, subject, direct=True
        )
        return msgspec.json.decode(message.data or b"", type=NodeStatus)
    except (NotFoundError, NatsError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
        return None
