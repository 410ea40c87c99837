"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct


class ErrorBody(Struct, frozen=True):
    """The inner object of OpenAI's error. `param` names the field that is at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ApiError(Exception):
    """An error answer; `retry_after` (seconds), `allow` and `accept_encoding` become headers.

    `more`: further header fields. `final`: OpenAI's clients are told not to retry, which they do
    after any other 5xx.
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
        accept_encoding: str = "",
        final: bool = False,
        close: bool = False,
        upgrade: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.allow = allow
        self.accept_encoding = accept_encoding
        self.final = final
        self.close = close
        self.upgrade = upgrade
        self.more = more or {}
        self.body = ErrorBody(message, kind, param, code)

    @property
    def payload(self) -> bytes:
        """The error as JSON."""
        return msgspec.json.encode({"error": self.body})

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` if waiting helps, `Allow` if another method would work, `Accept-Encoding`
        if another coding would, `WWW-Authenticate` if a key would, `Connection` if the connection
        ends, and `X-Should-Retry`, which OpenAI's clients obey.
        """
        headers = dict(self.more)
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.final:
            headers["x-should-retry"] = "false"
        if self.close:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.upgrade:
            headers["upgrade"] = self.upgrade
        if self.accept_encoding:
            headers["accept-encoding"] = self.accept_encoding
        return {**headers, "allow": self.allow} if self.allow else headers


_NAMED = re.compile(r"(?:missing required|unknown) field `([^`]+)`")
_PLACE = re.compile(r"at `\$\.([^`]+)`$")


def field_at_fault(error: msgspec.ValidationError) -> str | None:
    """Return the path of the field because of which a body is refused, if there is one."""
    found = (_PLACE.search(str(error)), _NAMED.search(str(error)))
    return ".".join(match[1] for match in found if match is not None) or None


def unavailable(message: str, retry_after: int | None = 1) -> ApiError:
    """Return a 503 for something that is temporarily missing."""
    return ApiError(
        503, message, kind="service_unavailable", code="unavailable", retry_after=retry_after
    )


def overdue(text: str) -> ApiError:
    """Return a 408 for a request that did not arrive in time."""
    return ApiError(408, text, kind="timeout", code="timeout")


def stopping() -> ApiError:
    """Return the error for a request that arrives or ends too late while the gateway stops."""
    return ApiError(
        503,
        "the gateway is stopping",
        kind="service_unavailable",
        code="unavailable",
        retry_after=1,
        close=True,
    )
