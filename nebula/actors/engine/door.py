"""Which HTTP requests an engine accepts on its own port: those of its node. Pure.

On a TCP port a request needs the key that the node gave the engine, whatever its path: vLLM's own
keys leave some paths open. A Unix socket needs none, for only the node's user reaches it. Web pages
must not use either; a page whose name was made to resolve to this machine is recognised by that
name in `Host` (docs/adr/0040).
"""

import hmac
import json
from collections.abc import Iterable
from typing import Any

_HOSTS = (b"127.0.0.1", b"localhost")

_MESSAGE = "an engine's own port is for its node: ask the gateway"


def from_a_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request is from a web page, or names a host that is not the engine's."""
    for name, value in headers:
        if name == b"origin" or (name == b"sec-fetch-site" and value != b"none"):
            return True
        if name == b"host" and value.lower().partition(b":")[0].rstrip(b".") not in _HOSTS:
            return True
    return False


def refusal(headers: Iterable[tuple[bytes, bytes]], key: str) -> str:
    """Return the code of the refusal of a request; "" if it is let in.

    `key`: what it must have; "" for none.
    """
    sent = list(headers)
    if from_a_page(sent):
        return "foreign_page"
    given = next((value for name, value in sent if name == b"authorization"), b"")
    if key and not hmac.compare_digest(given, b"Bearer " + key.encode()):
        return "invalid_api_key"
    return ""


async def refuse(why: str, kind: str, receive: Any, send: Any) -> None:
    """Answer an ASGI connection of a `kind`, "http" or "websocket", with a refusal's code."""
    if kind == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    keyless = why == "invalid_api_key"
    form = "authentication_error" if keyless else "permission_error"
    error = {"message": _MESSAGE, "type": form, "param": None, "code": why}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"www-authenticate", b"Bearer")] if keyless else []),
    ]
    await send(
        {"type": "http.response.start", "status": 401 if keyless else 403, "headers": headers}
    )
    await send({"type": "http.response.body", "body": body})
