"""Which HTTP requests an engine accepts on its own port: those of local programs. Pure.

The port is for its node. Web pages must not use it; a page whose name was made to resolve to this
machine is recognised by that name in `Host` (docs/adr/0040).
"""

import json
from collections.abc import Iterable
from typing import Any

_HOSTS = (b"127.0.0.1", b"localhost")

REFUSAL = json.dumps(
    {
        "error": {
            "message": "an engine's own port is for its node: ask the gateway",
            "type": "permission_error",
            "param": None,
            "code": "foreign_page",
        }
    }
).encode()


def from_a_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request is from a web page, or names a host that is not the engine's."""
    for name, value in headers:
        if name == b"origin" or (name == b"sec-fetch-site" and value != b"none"):
            return True
        if name == b"host" and value.lower().partition(b":")[0].rstrip(b".") not in _HOSTS:
            return True
    return False


async def refuse(kind: str, receive: Any, send: Any) -> None:
    """Answer an ASGI connection of a `kind`, "http" or "websocket", with a refusal."""
    if kind == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(REFUSAL)).encode()),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSAL})
