"""Errors as OpenAI's API words them: `{"error": {"message", "type", "param", "code"}}`."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import Struct


class ErrorBody(Struct, frozen=True):
    """The inside of OpenAI's error object. `param` names the field that is at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ApiError(Exception):
    """An answer that is an error. `retry_after` in seconds and `allow` become headers.

    `final`: OpenAI's clients are told not to ask again, as they do after any other 5xx.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str = "",
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.allow = allow
        self.final = final
        self.body = ErrorBody(message, kind, param, code)

    @property
    def payload(self) -> bytes:
        """The error as JSON."""
        return msgspec.json.encode({"error": self.body})

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`, where waiting helps, `Allow`, where another method would do, and
        `X-Should-Retry`, which OpenAI's clients heed.
        """
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.final:
            headers["x-should-retry"] = "false"
        return {**headers, "allow": self.allow} if self.allow else headers


_NAMED = re.compile(r"(?:missing required|unknown) field `([^`]+)`")
_PLACE = re.compile(r"at `\$\.([^`]+)`$")


def field_at_fault(error: msgspec.ValidationError) -> str | None:
    """Give the path of the field that a body is refused for, where there is one."""
    found = (_PLACE.search(str(error)), _NAMED.search(str(error)))
    return ".".join(match[1] for match in found if match is not None) or None


def no_json(error: Exception) -> ApiError:
    """Give a 400 for a body that can't be read."""
    return ApiError(400, f"the body is no JSON: {error}", code="invalid_json")


def unavailable(message: str, retry_after: int | None = 1) -> ApiError:
    """Give a 503 for something that is not there now."""
    return ApiError(
        503, message, kind="service_unavailable", code="unavailable", retry_after=retry_after
    )


def respond(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn any exception of a handler into an OpenAI error."""
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
        api.payload,
        status_code=api.status,
        headers=headers,
        media_type="application/json",
    )
