"""Stands in for the nats CLI where that is not installed: `pub SUBJECT BODY` alone."""

import asyncio
import os
import sys

import nats


async def publish(subject: str, body: str) -> None:
    """Publish one message to the server that NEBULA_NATS_URL names."""
    connection = await nats.connect(os.environ["NEBULA_NATS_URL"])
    await connection.publish(subject, body.encode())
    await connection.close()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    assert command == "pub", sys.argv
    asyncio.run(publish(*arguments))
