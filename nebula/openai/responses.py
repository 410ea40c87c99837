"""OpenAI's responses as requests and objects: what a gateway reads of them, and sets. Pure."""

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from nebula.events import metadata
from nebula.events.stored_responses import Head
from nebula.openai.response_items import joined

PREFIX = "resp_"
_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,64}")

_fields = msgspec.json.Decoder(dict[str, Raw])
_NULL = Raw(b"null")
_OURS = ("store", "background", "previous_response_id", "conversation", "request_id")


class BadWish(Exception):
    """A field of a request says what can't be. `param`: which."""

    def __init__(self, text: str, param: str) -> None:
        super().__init__(text)
        self.param = param


class _Conversation(Struct):
    id: str


class _Wishes(Struct):
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | _Conversation | None = None
    metadata: dict[str, str] | None = None


class Wishes(Struct, frozen=True, kw_only=True):
    """What a request wants of the plane: all that engines do not get.

    `said`: the client said itself that the response is to be stored.
    """

    store: bool = True
    said: bool = False
    background: bool = False
    previous: str = ""
    conversation: str = ""


def wishes(body: bytes) -> Wishes:
    """Return what a request's body wants. Raise BadWish, and msgspec's errors."""
    read = msgspec.json.decode(body, type=_Wishes)
    named = read.conversation
    conversation = named.id if isinstance(named, _Conversation) else named
    store = read.store is not False
    if read.background and not store:
        raise BadWish(
            "a response in the background must be stored: leave `store` out", "background"
        )
    if read.previous_response_id is not None and conversation is not None:
        text = "previous_response_id and conversation can't be used together"
        raise BadWish(text, "previous_response_id")
    for param, value in (
        ("previous_response_id", read.previous_response_id),
        ("conversation", conversation),
    ):
        if value == "":
            raise BadWish(f"{param} must not be empty", param)
    if problem := metadata.problem(read.metadata):
        raise BadWish(problem, "metadata")
    return Wishes(
        store=store,
        said=bool(read.store),
        background=bool(read.background),
        previous=read.previous_response_id or "",
        conversation=conversation or "",
    )


def input_of(body: bytes) -> bytes:
    """Return the JSON of a request's input; an empty list if there is none."""
    said = _fields.decode(body).get("input", _NULL)
    return b"[]" if bytes(said) == b"null" else bytes(said)


def for_engine(body: bytes, identity: str, before: list[bytes]) -> bytes:
    """Return the body that an engine gets: all in one request, and nothing for it to keep.

    `before`: lists of the items that come before the request's own input.
    """
    fields = {key: value for key, value in _fields.decode(body).items() if key not in _OURS}
    if before or bytes(fields.get("input", _NULL)).startswith(b"["):
        fields["input"] = joined(before, input_of(body))
    ours = {"store": Raw(b"false"), "request_id": Raw(msgspec.json.encode(identity))}
    return msgspec.json.encode({**fields, **ours})


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a response."""
    return _ID.fullmatch(text) is not None


def renamed_id(body: bytes, identity: str) -> bytes:
    """Return a body for an engine with another id of the response."""
    fields = _fields.decode(body)
    fields["request_id"] = Raw(msgspec.json.encode(identity))
    return msgspec.json.encode(fields)


def repeatable(body: bytes, seed: int) -> bytes:
    """Return a body for which an engine makes a stream, the same each time as far as it can.

    `seed`: for a request without one.
    """
    fields = _fields.decode(body)
    fields["stream"] = Raw(b"true")
    if bytes(fields.get("seed", _NULL)) == b"null":
        fields["seed"] = Raw(b"%d" % seed)
    return msgspec.json.encode(fields)


def dressed(response: dict[str, Any], head: Head, *, stored: bool) -> dict[str, Any]:
    """Return a response of an engine as its client gets it."""
    ours: dict[str, Any] = {
        "id": head.id,
        "created_at": head.created,
        "background": head.background,
        "previous_response_id": head.previous or None,
        "conversation": {"id": head.conversation} if head.conversation else None,
        "metadata": response.get("metadata") or {},
        "store": stored,
    }
    return {"error": None, **response, **ours}


def queued(body: bytes, head: Head) -> dict[str, Any]:
    """Return a response that no engine has begun. What is not said has vLLM's defaults."""
    said: dict[str, Any] = msgspec.json.decode(body)
    tools = said.get("tools") or []
    response = {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "status": "queued",
        "error": None,
        "incomplete_details": None,
        "instructions": said.get("instructions"),
        "max_output_tokens": said.get("max_output_tokens"),
        "max_tool_calls": said.get("max_tool_calls"),
        "metadata": said.get("metadata"),
        "model": said.get("model"),
        "output": [],
        "parallel_tool_calls": said.get("parallel_tool_calls") is not False,
        "reasoning": said.get("reasoning"),
        "service_tier": said.get("service_tier") or "auto",
        "temperature": _or(said.get("temperature"), 1.0),
        "text": said.get("text"),
        "tool_choice": said.get("tool_choice") or "auto" if tools else "none",
        "tools": tools,
        "top_p": _or(said.get("top_p"), 1.0),
        "truncation": said.get("truncation") or "disabled",
        "usage": None,
        "user": said.get("user"),
    }
    return dressed(response, head, stored=True)


def failed(response: dict[str, Any], message: str, *, clients_fault: bool) -> dict[str, Any]:
    """Return a response as failed, in the words of OpenAI's codes."""
    code = "invalid_prompt" if clients_fault else "server_error"
    return {**response, "status": "failed", "error": {"code": code, "message": message}}


def cancelled(response: dict[str, Any], output: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a response as cancelled, with the `output` that it has so far."""
    return {**response, "status": "cancelled", "output": output}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
