"""Answers a request that was refused before it was complete."""

from collections.abc import Mapping
from typing import Any, cast

from litestar.types import HTTPScope, Receive, Scope, Send

from nebula.http.errors import ApiError
from nebula.http.server.cycle import Cycle
from nebula.http.server.line import Line
from nebula.http.server.parsing import Parsing


def refusal(line: Line, common: Mapping[str, Any], parsing: Parsing, error: ApiError) -> Cycle:
    """Return the cycle of a request that is refused, with as much of its head as has come.

    `common`: what the scopes of all requests of its connection have. `await_refusal` answers it.
    """
    method = "HEAD" if parsing.heads_only else "GET"
    came = {"method": method, "path": parsing.path, "headers": parsing.fields}
    scope = {**common, **came, "state": {}}
    cycle = Cycle(line, cast("HTTPScope", scope), keep_alive=False, remaining=None)
    cycle.refuse(error)
    return cycle


async def await_refusal(_: Scope, receive: Receive, __: Send) -> None:
    """Answer a request that was refused before it was complete: its cycle knows why."""
    await receive()
