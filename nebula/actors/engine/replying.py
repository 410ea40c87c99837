"""Answers to HTTP requests on an engine's own port, in JSON."""

from nebula.actors.engine.exchange import Send


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    """Send a whole answer, whose `body` is JSON."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
