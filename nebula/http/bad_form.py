"""The error for a form that can't be read, whichever path took it. Pure."""

from nebula.http.errors import ApiError
from nebula.openai.forms import BadForm

_CODES = {413: "body_too_large", 415: "unsupported_media_type"}


def no_form(error: BadForm) -> ApiError:
    """Return a 400, 413 or 415 that names the field at fault."""
    code = _CODES.get(error.status, "bad_form")
    return ApiError(error.status, str(error), param=error.param, code=code)
