"""Ends an engine that NATS does not let do its work."""

import os
import signal
import sys

from nebula.store.connection import Connection, NotLetIn


async def end_if_prevented(connection: Connection) -> None:
    """End the engine when NATS refuses what it can't do without: it may say so late.

    A node takes the reason from the last line of an ...Error that the engine has written.
    """
    try:
        await connection.prevented()
    except NotLetIn as error:
        text = f"PermissionError: NATS does not let the engine in: {error}"
        print(text, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
