"""What the ASGI scopes of all requests of a connection share."""

import asyncio
from typing import Any

from uvicorn.protocols.utils import get_local_addr, get_remote_addr


def shared_scope(transport: asyncio.Transport) -> dict[str, Any]:
    """Return the items that stand in the scope of each request of a connection."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "scheme": "http",
        "root_path": "",
    }
