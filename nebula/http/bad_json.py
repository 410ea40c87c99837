"""Why a body is not JSON, in words that say what to mend. Pure."""

import codecs
import re

from nebula.events.utf8 import not_text
from nebula.http.errors import ApiError

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape of a string: of two halves of a character, of one half (which counts), or another."""

_URL_FORM = re.compile(rb"[\w.%+\[\]-]+=")
_LOOKED_AT = 1024 * 1024
"""Bytes of a body in which half a character is looked for."""


def no_json(body: bytes, error: Exception) -> ApiError:
    """Return a 400 for a body that can't be read; `error`: what its decoder raised."""
    return ApiError(400, _reason(body, error), code="invalid_json")


def _reason(body: bytes, error: Exception) -> str:
    start = body[:64].lstrip()
    if not start and not body.strip():
        return "the body is empty: this path takes JSON"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the body is UTF-16: JSON is UTF-8"
    if body.startswith(codecs.BOM_UTF8):
        return "the body begins with a byte order mark (EF BB BF): send JSON without one"
    if start.startswith(b"--") or _URL_FORM.match(start):
        return "the body is a form: this path takes JSON"
    if reason := not_text(body):
        return f"the body is not UTF-8: {reason}"
    if half := _half(body[:_LOOKED_AT]):
        return f"the body is not valid JSON: {half} is half of a surrogate pair, and no character"
    said = str(error).removeprefix("JSON is malformed: ")
    if said == "Input data was truncated":
        said = "it ends too early"
    return f"the body is not valid JSON: {said}"


def _half(body: bytes) -> str:
    """Return the first escape that is one half of a character; "" if there is none."""
    for escape in _ESCAPE.finditer(body):
        if escape[1]:
            return f"\\{escape[1].decode()}"
    return ""
