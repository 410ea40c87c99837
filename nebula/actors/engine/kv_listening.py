"""Listens to what this engine's vLLM publishes about its KV cache, over ZeroMQ on this machine.

vLLM brings `pyzmq`; nothing else of Nebula needs it.
"""

import logging
from collections.abc import Callable

from nebula.actors.engine.kv_events import Change, changes

log = logging.getLogger(__name__)

WAITING = 10_000
"""Messages that may wait to be read. What comes beyond is lost, and is noticed by its number."""


async def listen(endpoint: str, heard: Callable[[tuple[Change, ...] | None], None]) -> None:
    """Hand over what each message tells, and None if one was lost or can't be read."""
    try:
        from zmq import LINGER, SUB
        from zmq.asyncio import Context
    except ImportError:
        log.warning("pyzmq is missing in the engine's environment: its KV events are not read")
        return
    expected: int | None = None
    with Context() as context, context.socket(SUB) as socket:
        socket.set_hwm(WAITING)
        socket.setsockopt(LINGER, 0)
        socket.subscribe(b"")
        socket.connect(endpoint)
        while True:
            frames: list[bytes] = await socket.recv_multipart()
            if len(frames) != 3:
                continue
            _, number, payload = frames
            serial = int.from_bytes(number, "big")
            if expected not in (None, serial):
                log.warning("KV events %d to %d were lost", expected, serial - 1)
                heard(None)
            expected = serial + 1
            heard(changes(payload))
