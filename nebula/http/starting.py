"""What a gateway answers before it has read the log: nothing that rests on it.

A list that is empty because nothing was read yet looks like a list of nothing, and a name that is
not known yet like a wrong one. So every path is refused until then; the few that tell of the
gateway itself say so with `WITHOUT_LOG`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from litestar import Request

from nebula.actors.gateway.actor import Gateway
from nebula.http.errors import ApiError, unavailable

WITHOUT_LOG: dict[str, Any] = {"without_log": True}
"""Marks a handler that may answer at any time, as its `opt`."""

Check: TypeAlias = Callable[[Request[Any, Any, Any]], Awaitable[None]]


def check_started(gateway: Gateway) -> Check:
    """Return what runs before each handler. It raises ApiError 503."""

    async def check(request: Request[Any, Any, Any]) -> None:
        if not gateway.started and not request.route_handler.opt.get("without_log"):
            raise starting(gateway)

    return check


def starting(gateway: Gateway) -> ApiError:
    """Return the 503 of a gateway that has not read the log yet, with what it waits for."""
    why = "; ".join(gateway.log_watch.readiness().reasons)
    return unavailable(f"the gateway is not ready yet: {why or 'it is starting'}")
