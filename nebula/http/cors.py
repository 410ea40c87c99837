"""Lets pages of other origins read paths below /v1, as `--allow-origin` permits (ADR 38).

It wraps the guard, so that refusals and errors carry the headers too: without them a browser shows
"failed to fetch" instead of the reason. Without the option it is not installed. Source:
https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

import re
from collections.abc import Iterable
from typing import TypeAlias

from litestar.enums import ScopeType
from litestar.types import Message, Receive, Scope, Send

from nebula.http.dialects import dialect_for
from nebula.http.guard import Guard
from nebula.http.origins import Doors, for_clients, let_in
from nebula.http.relay import fail

METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
"""Methods of the paths below /v1."""

EXPOSED = (
    b"x-request-id, x-client-request-id, x-nebula-request-id, openai-processing-ms, retry-after, "
    b"request-id, x-nebula-model, x-should-retry, allow, accept-encoding"
)
"""Headers of Nebula's answers that a page may read only if it is permitted to."""

MAX_AGE = b"600"
"""Seconds for which a browser may reuse a permission. Chromium caps this at two hours."""

_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?:[ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)

Fields: TypeAlias = list[tuple[bytes, bytes]]


class Cors:
    """An ASGI application that wraps the guard."""

    def __init__(self, guard: Guard, doors: Doors) -> None:
        self._guard = guard
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != ScopeType.HTTP or not for_clients(scope["path"]):
            await self._guard(scope, receive, send)
            return
        asked: Fields = list(scope["headers"])
        fields = shared(self._doors, asked, scope["path"])

        async def sharing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        allowed = preflight(asked) if scope["method"] == "OPTIONS" else None
        if allowed is None:
            await self._guard(scope, receive, sharing)
        elif (refusal := self._guard.refusal(asked, scope["path"])) is not None:
            await fail(refusal, sharing, dialect_for(scope["path"], asked))
        else:
            await sharing({"type": "http.response.start", "status": 204, "headers": allowed})
            await sharing({"type": "http.response.body", "body": b"", "more_body": False})


def shared(doors: Doors, asked: Iterable[tuple[bytes, bytes]], path: str) -> Fields:
    """Return the fields that permit the requesting page to read the answer, if it is allowed to."""
    origins = [value for name, value in asked if name == b"origin"]
    everyone = "*" in doors.origins
    fields = [] if everyone else [(b"vary", b"Origin")]
    if len(origins) == 1 and let_in(doors, origins[0].decode("latin-1"), path):
        fields += [
            (b"access-control-allow-origin", b"*" if everyone else origins[0]),
            (b"access-control-expose-headers", EXPOSED),
        ]
    return fields


def preflight(asked: Iterable[tuple[bytes, bytes]]) -> Fields | None:
    """Return the answer to a preflight request; None for any other OPTIONS request.

    All headers that it names are allowed, since each handler validates those that it reads. `*`
    would not include Authorization.
    """
    said: dict[bytes, bytes] = {}
    for name, value in asked:
        said[name] = said[name] + b", " + value if name in said else value
    if b"origin" not in said or b"access-control-request-method" not in said:
        return None
    fields = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", MAX_AGE),
        (b"allow", METHODS),
    ]
    names = said.get(b"access-control-request-headers", b"").strip()
    if _NAMES.fullmatch(names):
        fields.append((b"access-control-allow-headers", names))
    # Chromium sends this if a public page wants something from a private network.
    for network in (b"private", b"local"):
        if said.get(b"access-control-request-%b-network" % network) == b"true":
            fields.append((b"access-control-allow-%b-network" % network, b"true"))
    return fields
