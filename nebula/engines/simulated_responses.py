"""OpenAI's responses, as a simulated engine answers them. Pure: ids and times come in.

The shapes are those of vLLM 0.32 (``vllm/entrypoints/openai/responses``) without its store: it
keeps no response, so it runs none in the background and continues none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from nebula.engines.simulated_answers import Answer
from nebula.engines.simulated_http import Refusal, encode, invalid
from nebula.engines.simulated_requests import GenerationRequest, Message, Part
from nebula.engines.simulated_tokens import ids_of, text_of

_UNSET_OF_A_FUNCTION = dict.fromkeys(
    ("allowed_callers", "async", "defer_loading", "description", "output_schema")
)


class Item(msgspec.Struct, frozen=True):
    """One item of a response's input: a message, a tool's output, or what has no words."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    output: str | list[Part] | None = None

    def message(self) -> Message:
        """The message of a chat that stands for it. Raise Refusal."""
        if self.type in ("function_call_output", "custom_tool_call_output"):
            return Message("tool", self.output)
        if self.type in ("function_call", "custom_tool_call", "reasoning"):
            return Message("assistant")
        if self.type not in (None, "message"):
            raise _refused(f"Unsupported input item type: {self.type}", "input")
        if self.role is None:
            raise invalid("body.input", "Field required", "missing")
        return Message(self.role, self.content)


class ResponsesRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/responses; most of its fields only come back in the answer."""

    input: str | list[Item]
    instructions: str | None = None
    background: bool | None = False
    store: bool | None = True
    previous_response_id: str | None = None
    request_id: str | None = None
    enable_response_messages: bool = False
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = True
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tool_choice: str | dict[str, Any] = "auto"
    tools: tuple[dict[str, Any], ...] = ()
    prompt: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] = "auto"
    text: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    user: str | None = None

    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_output_tokens

    def check(self) -> None:
        """Raise Refusal for fields that contradict each other."""
        if self.background and not self.store:
            raise _refused("background can only be used when `store` is true", "background")
        if self.prompt is not None:
            raise _refused("prompt template is not supported", "prompt")
        if not self.tools and self.tool_choice == "required":
            text = "Tool choice 'required' must be specified with 'tools' parameter."
            raise _refused(text, "tool_choice")

    def check_store(self) -> None:
        """Raise Refusal for what needs stored responses."""
        if self.background:
            text = (
                "This vLLM engine does not support `store=True` and therefore does not support "
                "the background mode. To enable these features, set the environment variable "
                "`VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
            )
            raise Refusal(400, text, "invalid_request_error", "background")
        if self.previous_response_id is not None:
            raise not_found(self.previous_response_id)

    def chat(self) -> list[Message]:
        """The chat that the model sees. Raise Refusal."""
        head = [Message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*head, Message("user", self.input)]
        return [*head, *(item.message() for item in self.input)]

    def echo(self) -> dict[str, Any]:
        """The fields of the answer that repeat the request's, or vLLM's defaults."""
        choice = self.tool_choice
        if not self.tools and choice in ("auto", "none"):
            choice = "none"
        return {
            "instructions": self.instructions,
            "metadata": self.metadata,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "tool_choice": choice,
            "tools": [_tool(tool) for tool in self.tools],
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "background": self.background,
            "max_tool_calls": self.max_tool_calls,
            "previous_response_id": self.previous_response_id,
            "reasoning": self.reasoning,
            "service_tier": self.service_tier,
            "text": self.text,
            "truncation": self.truncation,
            "user": self.user,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
        }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    given = {key: tool.get(key) for key in ("name", "parameters", "strict", "type")}
    return {**given, **_UNSET_OF_A_FUNCTION, **tool}


def _refused(text: str, param: str) -> Refusal:
    return Refusal(400, f"{text} (parameter={param})", "BadRequestError", param)


def not_found(response_id: str) -> Refusal:
    """The refusal of a response that is not kept."""
    text = f"Response with id '{response_id}' not found."
    return Refusal(404, text, "invalid_request_error", "response_id")


class BrokenStream(Exception):
    """A stream of a response failed in the middle: vLLM breaks the connection off."""


class ResponseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A response: what was generated, and what the request wants with it.

    ``limit``: the most tokens that the answer may have. ``item``: the id of its message.
    """

    generated: Answer
    request: ResponsesRequest
    item: str
    limit: int
    prompt_ids: list[int]

    def body(self) -> bytes:
        """The answer in one piece."""
        return encode(self._response(done=True))

    def before(self) -> tuple[bytes, ...]:
        """The events that a stream begins with, before the request has its turn."""
        response = self._response(done=False)
        kinds = ("response.created", "response.in_progress")
        return tuple(
            _event({"response": response, "sequence_number": number, "type": kind})
            for number, kind in enumerate(kinds)
        )

    def opening(self) -> tuple[bytes, ...]:
        """The events before the first token."""
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return (
            self._item_event("added", 2, "in_progress", []),
            self._part_event("added", 3, part),
        )

    def events(self) -> Iterator[bytes]:
        """One event for each token."""
        form = (
            b"event: response.output_text.delta\ndata: "
            b'{"content_index":0,"delta":%b,"item_id":%b,"logprobs":[],"output_index":0,'
            b'"sequence_number":%d,"type":"response.output_text.delta"}\n\n'
        )
        item, space = encode(self.item), ""
        for number, token in enumerate(self.generated.tokens, 4):
            yield form % (encode(space + token), item, number)
            space = " "

    def closing(self) -> tuple[bytes, ...]:
        """The events after the last token."""
        number = 4 + len(self.generated.tokens)
        (part,) = content = self._content()
        done = {
            "content_index": 0,
            "item_id": self.item,
            "logprobs": [],
            "output_index": 0,
            "sequence_number": number,
            "text": part["text"],
            "type": "response.output_text.done",
        }
        completed = {
            "response": self._response(done=True),
            "sequence_number": number + 3,
            "type": "response.completed",
        }
        return (
            _event(done),
            self._part_event("done", number + 1, part),
            self._item_event("done", number + 2, "completed", content),
            _event(completed),
        )

    def failing(self, failure: Refusal) -> tuple[bytes, ...]:
        """What a stream ends with that fails in the middle. Raise BrokenStream."""
        raise BrokenStream(failure.message)

    def _item_event(
        self, what: str, number: int, status: str, content: list[dict[str, Any]]
    ) -> bytes:
        item = self._message(status, content)
        kind = f"response.output_item.{what}"
        return _event({"item": item, "output_index": 0, "sequence_number": number, "type": kind})

    def _part_event(self, what: str, number: int, part: dict[str, Any]) -> bytes:
        return _event(
            {
                "content_index": 0,
                "item_id": self.item,
                "output_index": 0,
                "part": part,
                "sequence_number": number,
                "type": f"response.content_part.{what}",
            }
        )

    def _content(self) -> list[dict[str, Any]]:
        text = " ".join(self.generated.tokens)
        return [{"annotations": [], "text": text, "type": "output_text", "logprobs": None}]

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.item, "content": content, "role": "assistant", "status": status}
        return {**head, "type": "message", "phase": None}

    def _response(self, *, done: bool) -> dict[str, Any]:
        generated = self.generated
        cut = done and generated.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        shown = done and self.request.enable_response_messages
        return {
            "id": generated.id,
            "created_at": generated.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": generated.model,
            "object": "response",
            "output": [self._message("completed", self._content())] if done else [],
            "max_output_tokens": self.limit,
            "prompt": None,
            "status": status if done else "in_progress",
            "top_logprobs": None,
            "usage": self._usage() if done else None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": [_raw(self.prompt_ids)] if shown else None,
            "output_messages": [_raw(ids_of(generated.tokens))] if shown else None,
            **self.request.echo(),
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.generated.usage()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": usage["total_tokens"],
        }


def _raw(ids: list[int]) -> dict[str, Any]:
    return {"message": text_of(ids), "tokens": ids, "type": "raw_message_tokens"}


def _event(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), encode(data))
