"""A captured request as it is sent again to another model, and what came of it. Pure."""

from typing import Any

import msgspec
from msgspec import Struct

from nebula.events.captured import CapturedRequest
from nebula.events.endpoints import ENDPOINTS
from nebula.events.reading import UNREADABLE
from nebula.openai.answer_text import text_of
from nebula.openai.token_usage import told


class NotReplayable(ValueError):
    """A captured request can't be sent again; the text says why."""


class Replayed(Struct, frozen=True):
    """What came of a request that was sent again. `id`: that of the new request."""

    model: str
    status: int
    milliseconds: int
    prompt_tokens: int
    completion_tokens: int
    answer: str
    id: str = ""


def body_again(captured: CapturedRequest, to: str) -> dict[str, Any]:
    """Return the body that asks the model `to` the same, without a stream. Raise NotReplayable."""
    if not isinstance(captured.body, dict):
        why = captured.omitted or "it is not a JSON object"
        raise NotReplayable(f"request {captured.id} was captured without its body: {why}")
    if captured.path not in ENDPOINTS:
        raise NotReplayable(f"{captured.path} is not a path that engines answer")
    apart = ("stream", "stream_options")
    return {
        **{name: value for name, value in captured.body.items() if name not in apart},
        "model": to,
    }


def replayed(to: str, status: int, milliseconds: int, content: bytes, identity: str) -> Replayed:
    """Return what came of it, from the whole answer."""
    try:
        usage = msgspec.json.decode(content, type=dict[str, Any]).get("usage")
    except UNREADABLE:
        usage = None
    tokens = told(usage if isinstance(usage, dict) else {})
    text = text_of(content, stream=False)
    return Replayed(to, status, milliseconds, tokens.prompt, tokens.completion, text, identity)
