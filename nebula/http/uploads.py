"""Reads what concerns the gateway of a request whose body is a form with a file."""

import asyncio

from nebula.events.endpoints import Endpoint
from nebula.http.answer_lengths import LENGTHS
from nebula.http.bad_form import no_form
from nebula.http.errors import ApiError
from nebula.http.outline import Outline
from nebula.openai.forms import BadForm, Form, FormReader

_SLICE = 64 * 1024
_AT_ONCE = 16
"""Slices that are read before other tasks run: 1 MiB."""

_OWN = ("model", "stream")
_ON = frozenset({"1", "on", "t", "true", "y", "yes"})
"""What pydantic, by which vLLM reads a form, takes for true."""


async def read(endpoint: Endpoint, content_type: str, body: bytes) -> Outline:
    """Read a form. Raise ApiError 400, 413 or 415 that names the field at fault."""
    try:
        form = await _read(endpoint, content_type, body)
    except BadForm as error:
        raise no_form(error) from error
    model = form.fields.get("model", "")
    if not model:
        raise ApiError(400, "you must name a model", param="model")
    for name in endpoint.inputs:
        if name not in form.names:
            raise ApiError(400, f"{name} is required", param=name)
    streams = form.fields.get("stream", "").lower() in _ON
    lengths = {name: value for name, value in form.fields.items() if name not in _OWN}
    return Outline(model, b"", b"true" if streams else b"", lengths=lengths)


async def _read(endpoint: Endpoint, content_type: str, body: bytes) -> Form:
    reader = FormReader(content_type, (*_OWN, *LENGTHS[endpoint.path]))
    for number, at in enumerate(range(0, len(body), _SLICE), 1):
        reader.feed(body[at : at + _SLICE])
        if not number % _AT_ONCE:
            await asyncio.sleep(0)
    return reader.end()
