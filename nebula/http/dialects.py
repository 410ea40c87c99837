"""Errors in the form that the clients of each path expect, as answers and amid streams. Pure.

OpenAI's: https://platform.openai.com/docs/api-reference/responses-streaming/error for an event of
/v1/responses; Anthropic's: https://docs.anthropic.com/en/api/errors.
"""

import re
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from nebula.events.endpoints import ENDPOINTS, Dialect
from nebula.events.reading import decoded
from nebula.http.errors import ApiError

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's types of errors by HTTP status; all others are `api_error`, or
`invalid_request_error` where the client is at fault."""

_OF_FRAMEWORK = b'{"detail":'
_NOT_FOUND = b'{"detail":"Not Found"}'
_NUMBER = re.compile(rb'"sequence_number":\s?(\d{1,18})')


def dialect_of(path: str) -> Dialect:
    """Return the form of errors that a client of a path expects."""
    endpoint = ENDPOINTS.get(path.rstrip("/"))
    return endpoint.dialect if endpoint is not None else "openai"


def dialect_for(path: str, fields: Iterable[tuple[bytes, bytes]]) -> Dialect:
    """Return the form of errors that a client expects whose path may be unknown.

    Anthropic's clients name the version of its API in every request.
    """
    endpoint = ENDPOINTS.get(path.rstrip("/"))
    if endpoint is not None:
        return endpoint.dialect
    named = any(name == b"anthropic-version" for name, _ in fields)
    return "anthropic" if named else "openai"


def payload(error: ApiError, dialect: Dialect) -> bytes:
    """Return the body of an error answer."""
    return _anthropic(error) if dialect == "anthropic" else error.payload


def event(error: ApiError, dialect: Dialect, sent: bytes = b"") -> bytes:
    """Return the event that ends a stream with an error. `sent`: what the client got last."""
    match dialect:
        case "openai":
            return b"data: %b\n\n" % error.payload
        case "anthropic":
            return b"event: error\ndata: %b\n\n" % _anthropic(error)
        case "responses":
            numbers = _NUMBER.findall(sent)
            said = {
                "type": "error",
                "code": error.body.code or error.body.type,
                "message": error.body.message,
                "param": error.body.param,
                "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
            }
            return b"event: error\ndata: %b\n\n" % msgspec.json.encode(said)


class _Said(Struct):
    message: str = ""
    type: str = ""
    param: str | None = None
    code: str | int | None = None


class _Detail(Struct):
    detail: str


class _Refusal(Struct):
    error: _Said
    type: str = ""


def refusal(status: int, body: bytes) -> ApiError:
    """Return an engine's error answer, in OpenAI's or Anthropic's form, as an error of ours."""
    read = decoded(body, _Refusal)
    kind = "invalid_request_error" if status < 500 else "internal_error"
    if read is None:
        text = body[:1000].decode(errors="replace") or "nothing more"
        return ApiError(status, f"the engine answered with {status}: {text}", kind=kind)
    said = read.error
    code = said.code if isinstance(said.code, str) else None
    return ApiError(status, said.message, kind=said.type or kind, param=said.param, code=code)


def translated(status: int, body: bytes, dialect: Dialect) -> bytes:
    """Return an engine's whole error answer in the form of a path's clients.

    vLLM answers some errors of Anthropic's paths in OpenAI's form, and a path that it does not have
    for its model, such as scores of a classifier of many classes, in its framework's own, and so a
    body that Python's `json` can't read, such as a number of thousands of digits.
    """
    if body == _NOT_FOUND:
        text = "the engine of this model does not have this path"
        return payload(ApiError(status, text, code="unknown_url"), dialect)
    if body.startswith(_OF_FRAMEWORK) and (told := decoded(body, _Detail)) is not None:
        kind = "invalid_request_error" if status < 500 else "internal_error"
        return payload(ApiError(status, told.detail, kind=kind), dialect)
    if dialect != "anthropic":
        return body
    read = decoded(body, _Refusal)
    if read is not None and read.type == "error":
        return body
    return _anthropic(refusal(status, body))


def _anthropic(error: ApiError) -> bytes:
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _KINDS.get(error.status, usual)
    said = {"type": kind, "message": error.body.message}
    return msgspec.json.encode({"type": "error", "error": said})
