"""Detects another living process of this node: two would end each other's engines.

Silence proves nothing. A node answers requests for its engines' logs, so NATS itself knows whether
a process listens; the stream of heartbeats only tells which process it was.
"""

import asyncio
import contextlib
import os
import socket

import psutil
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from nebula.actors.attribution import attributed
from nebula.actors.presence import answers
from nebula.events import subjects
from nebula.events.heartbeats import NodeHeartbeat
from nebula.events.state import Node
from nebula.store import streams
from nebula.store.connection import Connection, Unavailable

UNSURE = 15.0
"""Seconds until a start is given up if it is unknown whether another process lives."""


class NameTaken(Exception):
    """Another process runs the node of this name; the text says which."""


class Unsure(Unavailable):
    """It is unknown whether another process runs the node of this name."""


async def refuse_namesake(
    connection: Connection, node: str, known: Node | None, heartbeat: float
) -> None:
    """Return once it is certain that no other process runs this node.

    Possible processes are asked, and listened for a little longer than one heartbeat interval; no
    clock of another machine is used.

    Args:
        connection: to NATS.
        node: the node's name.
        known: the node as the log has it; None if it never registered or was removed.
        heartbeat: seconds between two heartbeats.

    Raise NameTaken if another process lives; raise Unsure if for UNSURE seconds a listener under
    the node's name does not answer, or NATS can't be asked.
    """
    last = await _last(connection, node)
    heard = asyncio.Event()

    def arrived(subject: bytes, _: bytes, body: bytes) -> None:
        status = attributed(subject, body, NodeHeartbeat)
        if status is not None and status.pid != os.getpid():
            heard.set()

    loop = asyncio.get_running_loop()
    began = loop.time()
    listening = await connection.client.listen(subjects.node_status(node), arrived)
    try:
        while True:
            lives = await answers(connection, node)
            if heard.is_set() or lives:
                raise NameTaken(_taken(node, known, last))
            passed = loop.time() - began
            if lives is False and (_dead(last, known) or passed >= 1.25 * heartbeat):
                return
            if passed >= UNSURE:
                raise Unsure(
                    f"it is unknown whether another process runs node {node!r}: a listener under "
                    "this name in NATS does not answer, or NATS can't tell"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await heard.wait()
    finally:
        with contextlib.suppress(NatsError):
            await listening.unsubscribe()


def _taken(node: str, known: Node | None, last: NodeHeartbeat | None) -> str:
    process = f"process {last.pid}" if last is not None else "a process"
    host = known.host if known is not None else ""
    return (
        f"node {node!r} runs already, as {process} on {host or 'another machine'}: "
        "give this one another --name"
    )


def _dead(last: NodeHeartbeat | None, known: Node | None) -> bool:
    """Return whether no process was heard, or the last one was on this machine and has ended."""
    if last is None or known is None:
        return last is None and known is None
    if known.host != socket.gethostname():
        return False
    return last.pid == os.getpid() or not psutil.pid_exists(last.pid)


async def _last(connection: Connection, node: str) -> NodeHeartbeat | None:
    subject = subjects.node_status(node)
    try:
        message = await connection.client.jetstream().get_last_msg(
            streams.STATUS, subject, direct=True
        )
    except (NotFoundError, NatsError, TimeoutError):
        return None
    return attributed(subject.encode(), message.data or b"", NodeHeartbeat)
