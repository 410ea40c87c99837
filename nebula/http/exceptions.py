"""The answers to exceptions of handlers, in the form that each client expects."""

from collections.abc import Mapping
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from nebula.http.dialects import dialect_for, payload
from nebula.http.errors import ApiError


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return any exception of a handler as an error answer."""
    headers: Mapping[str, str] | None = None
    if isinstance(error, ApiError):
        api, headers = error, error.headers
    elif isinstance(error, HTTPException):
        kind = "invalid_request_error" if error.status_code < 500 else "internal_error"
        api = ApiError(error.status_code, error.detail or "error", kind=kind)
        headers = error.headers
    else:
        api = ApiError(500, f"internal error: {type(error).__name__}", kind="internal_error")
    return Response(
        payload(api, dialect_for(request.scope["path"], request.scope["headers"])),
        status_code=api.status,
        headers=headers,
        media_type="application/json",
    )
