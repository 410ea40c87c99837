"""Attributes of requests to models, by the conventions of OpenTelemetry for generative AI. Pure.

The conventions are in development; these names are those of version 1.37 and later.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from nebula.events.endpoints import REALTIME
from nebula.events.reading import UNREADABLE

Value: TypeAlias = str | int | float | bool | Sequence[str] | Sequence[int]
Attributes: TypeAlias = dict[str, Value]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

LONGEST = 64 * 1024
"""Bytes of what was said that are recorded, where prompts are to be."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
    REALTIME.path: "realtime",
}
_NUMBERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "dimensions": "gen_ai.embeddings.dimension.count",
}
_MOST_TOKENS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_LONGEST_NAME = 256
_FINISHED = re.compile(rb'"(?:finish_reason|stop_reason)": ?"([a-z_]{1,40})"')


def operation(path: str) -> str:
    """Return the name of what a path does: that of the conventions, else the path's own."""
    return _OPERATIONS.get(path) or path.removeprefix("/").partition("/")[2] or path


def of_request(path: str, body: Mapping[str, Any] | None) -> Attributes:
    """Return the attributes of a request, without anything that a client says to the model."""
    found: Attributes = {OPERATION: operation(path), PROVIDER: "vllm"}
    if body is None:
        return found
    model = body.get("model")
    if isinstance(model, str):
        found[REQUEST_MODEL] = model[:_LONGEST_NAME]
    for name, attribute in _NUMBERS.items():
        value = body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[attribute] = value
    most = next((body[name] for name in _MOST_TOKENS if isinstance(body.get(name), int)), None)
    if most is not None:
        found["gen_ai.request.max_tokens"] = most
    stop = body.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if isinstance(stop, list) and stop and all(isinstance(each, str) for each in stop):
        found["gen_ai.request.stop_sequences"] = [each[:_LONGEST_NAME] for each in stop[:16]]
    if body.get("stream") is True:
        found["gen_ai.request.stream"] = True
    return found


def input_messages(body: Mapping[str, Any]) -> str:
    """Return what a client says to a model, in the form of the conventions."""
    given = body.get("messages", body.get("prompt", body.get("input")))
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        given = [{"role": "user", "content": given}]
    return _cut([_message(each.get("role"), each.get("content")) for each in given])


def output_messages(said: str) -> str:
    """Return what a model has said, in the form of the conventions."""
    return _cut([_message("assistant", said)])


def _message(role: object, content: object) -> dict[str, object]:
    text = content if isinstance(content, str) else json.dumps(content)
    return {"role": str(role or "user"), "parts": [{"type": "text", "content": text}]}


def _cut(messages: list[dict[str, object]]) -> str:
    text = json.dumps(messages, ensure_ascii=False)
    return text.encode()[:LONGEST].decode(errors="ignore")


def decoded(body: bytes) -> Mapping[str, Any] | None:
    """Return the fields of a JSON body; None for any other."""
    try:
        found = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) else None


class AnswerReader:
    """Takes the bytes that a client gets; `attributes` is what they tell of the answer.

    `prompts`: what the model says is kept too.
    """

    def __init__(self, *, prompts: bool = False) -> None:
        self.attributes: Attributes = {}
        self._reasons: list[str] = []
        self._prompts = prompts
        self._said: list[str] = []
        self._size = 0

    @property
    def said(self) -> str:
        """What the model has said, as far as it is kept."""
        return "".join(self._said)

    def take(self, body: bytes) -> None:
        """Take the next bytes: whole events of a stream, or a whole answer."""
        for reason in _FINISHED.findall(body):
            self._reasons.append(reason.decode())
            self.attributes[FINISH_REASONS] = tuple(self._reasons[:16])
        if RESPONSE_ID in self.attributes and not self._prompts:
            return
        for line in body.split(b"\n") if body.startswith((b"data:", b"event:", b"id:")) else [body]:
            fields = decoded(line.removeprefix(b"data:"))
            if fields is not None:
                self._read(fields)

    def _read(self, fields: Mapping[str, Any]) -> None:
        inner = fields.get("message", fields.get("response"))
        told = inner if isinstance(inner, dict) else fields
        for name, attribute in (("id", RESPONSE_ID), ("model", RESPONSE_MODEL)):
            value = told.get(name)
            if isinstance(value, str) and attribute not in self.attributes:
                self.attributes[attribute] = value[:_LONGEST_NAME]
        choices = fields.get("choices")
        if not self._prompts or not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, dict):
                said = choice.get("delta", choice.get("message", choice))
                text = said.get("content", said.get("text")) if isinstance(said, dict) else None
                if isinstance(text, str) and self._size < LONGEST:
                    self._size += len(text)
                    self._said.append(text)
