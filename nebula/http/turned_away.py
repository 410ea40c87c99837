"""Counts the requests that are refused before they are sent to a router."""

from typing import Any

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.request_counts import CLIENT_LEFT
from nebula.http.errors import ApiError
from nebula.http.principals import STATE, Principal


def count(gateway: Gateway, path: str, scope: Any, error: ApiError | None) -> None:
    """Count a request that ended with an error; None: its client left before it was sent.

    `scope`: that of ASGI.
    """
    found = scope.get("state", {}).get(STATE)
    tenant = found.tenant if isinstance(found, Principal) else ""
    status = CLIENT_LEFT if error is None else error.status
    reason = "" if error is None else str(error.body.code or error.body.type)
    gateway.figures.counts.turned_away(path, status, reason, tenant)
