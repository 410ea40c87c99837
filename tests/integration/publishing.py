"""Stands in for the nats CLI where that is not installed: `--context FILE pub SUBJECT BODY`."""

import asyncio
import sys

from nebula.store.connection import Connection


async def publish(context: str, subject: str, body: str) -> None:
    """Publish one message to the server of a context, with its credentials."""
    connection = await Connection(f"file:{context}", "nats").open(patience=10)
    await connection.client.publish(subject, body.encode())
    await connection.close()


if __name__ == "__main__":
    option, file, command, *arguments = sys.argv[1:]
    assert (option, command) == ("--context", "pub"), sys.argv
    asyncio.run(publish(file, *arguments))
