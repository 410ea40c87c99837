"""The fields in which requests name the most tokens of their answer, held to a limit. Pure.

What vLLM reads by other rules than are known here is refused where a limit holds: it takes "9", 9.0
and 9 for the same number.
"""

from collections.abc import Mapping

from nebula.events.endpoints import Endpoint
from nebula.http.errors import ApiError

_CHAT = ("max_tokens", "max_completion_tokens")
_HEARING = ("max_completion_tokens",)

LENGTHS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/chat/completions/batch": _CHAT,
    "/v1/completions": ("max_tokens",),
    "/v1/messages": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/audio/transcriptions": _HEARING,
    "/v1/audio/translations": _HEARING,
}
"""By path, the fields in which vLLM 0.32 reads a length; the first is added where none is there.

On all other paths clients can't set how long an answer is.
"""

UNSAID: Mapping[str, int] = {"/v1/completions": 16}
"""Tokens of an answer to a request that names no number, by path; elsewhere as many as fit."""

_DIGITS = 15


def unsaid(path: str, allowed: int | None) -> int | None:
    """Return the tokens of an answer to a request that names no number; None: as many as fit.

    `allowed`: the most that an answer may have; None for any number.
    """
    usual = UNSAID.get(path)
    if usual is None or allowed is None:
        return allowed if usual is None else usual
    return min(usual, allowed)


def number(text: bytes) -> int | None:
    """Return the number of tokens that JSON or a form has in digits; None for anything else."""
    return int(text) if text.isdigit() and len(text) <= _DIGITS else None


def missing(endpoint: Endpoint, said: Mapping[str, bytes], longest: int) -> str:
    """Return the field that has to be set to `longest`; "" if the request keeps within it.

    `said`: the fields that the request has, other than null. Raise ApiError 400 for a longer
    answer.
    """
    fields = LENGTHS.get(endpoint.path, ())
    there = [(name, said[name]) for name in fields if name in said]
    for name, text in there:
        length = number(text)
        if length is None:
            raise _refused(name, f"{name} must be a whole number from 1 to {longest}")
        if length > longest:
            raise _refused(name, f"{name}: an answer may have at most {longest} tokens")
    if there or not fields or UNSAID.get(endpoint.path, longest + 1) <= longest:
        return ""
    return fields[0]


def _refused(name: str, text: str) -> ApiError:
    return ApiError(400, text, param=name, code="max_tokens_exceeded")
