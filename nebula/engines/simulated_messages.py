"""Anthropic's messages, as a simulated engine answers them. Pure: ids and times come in.

The shapes are those of vLLM 0.32 (``vllm/entrypoints/anthropic``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from nebula.engines.simulated_answers import Answer
from nebula.engines.simulated_http import Refusal, encode, invalid
from nebula.engines.simulated_requests import GenerationRequest, Message, Part

_REASONS = {"length": "max_tokens", "stop": "end_turn"}


class Block(msgspec.Struct, frozen=True):
    """One block of a message's content: text, a tool's result, or what has no words."""

    type: str
    text: str | None = None
    content: str | list[Part] | None = None

    def words(self) -> str:
        """Its text."""
        return self.text or Message("tool", self.content).text()


class AnthropicMessage(msgspec.Struct, frozen=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True):
    """The definition of a tool, which the simulated engine never calls."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tools may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class CountTokensRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: list[AnthropicMessage]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None

    def check(self) -> None:
        """Raise Refusal for fields without a value that makes sense."""
        if not self.model:
            raise invalid("body.model", "Value error, Model is required")
        chosen = self.tool_choice
        if chosen is not None and chosen.type == "tool" and not chosen.name:
            text = "Value error, tool_choice.name is required when type is 'tool'"
            raise invalid("body.tool_choice", text)

    def chat(self) -> list[Message]:
        """The chat that the model sees."""
        head = [Message("system", _text(self.system))] if self.system else []
        return [*head, *(Message(each.role, _text(each.content)) for each in self.messages)]


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """POST /v1/messages."""

    max_tokens: int

    def check(self) -> None:
        """Raise Refusal for fields without a value that makes sense."""
        super().check()
        if self.max_tokens <= 0:
            raise invalid("body.max_tokens", "Value error, max_tokens must be positive")


def _text(content: str | list[Block]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(block.words() for block in content)


def error_body(refusal: Refusal) -> bytes:
    """A refusal as Anthropic's clients read it."""
    return encode(_error(refusal.kind, refusal.message))


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def count_body(tokens: int) -> bytes:
    """The answer to a request to count tokens."""
    counted = {"original_input_tokens": tokens}
    return encode({"input_tokens": tokens, "context_management": counted})


class MessageAnswer(msgspec.Struct, frozen=True):
    """A message that was generated."""

    generated: Answer

    def body(self) -> bytes:
        """The answer in one piece."""
        return encode(
            {
                "id": self.generated.id,
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": " ".join(self.generated.tokens)}],
                "model": self.generated.model,
                "stop_reason": _REASONS[self.generated.finish_reason],
                "usage": self._usage(len(self.generated.tokens)),
            }
        )

    def before(self) -> tuple[bytes, ...]:
        """The events that a stream begins with, before the request has its turn: none."""
        return ()

    def opening(self) -> tuple[bytes, ...]:
        """The events before the first token."""
        message: dict[str, Any] = {
            "id": self.generated.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.generated.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(0),
        }
        block = {"content_block": {"type": "text", "text": ""}, "index": 0}
        return (
            _event({"type": "message_start", "message": message}),
            _event({"type": "content_block_start", **block}),
        )

    def events(self) -> Iterator[bytes]:
        """One event for each token."""
        form = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta",'
            b'"delta":{"type":"text_delta","text":%b},"index":0}\n\n'
        )
        space = ""
        for token in self.generated.tokens:
            yield form % encode(space + token)
            space = " "

    def closing(self) -> tuple[bytes, ...]:
        """The events after the last token."""
        delta = {"stop_reason": _REASONS[self.generated.finish_reason], "stop_sequence": None}
        usage = self._usage(len(self.generated.tokens))
        return (
            _event({"type": "content_block_stop", "index": 0}),
            _event({"type": "message_delta", "delta": delta, "usage": usage}),
            _event({"type": "message_stop"}),
        )

    def failing(self, _: Refusal) -> tuple[bytes, ...]:
        """What a stream ends with that fails in the middle; vLLM does not say why it did."""
        text = "2 validation errors for ChatCompletionStreamResponse"
        return (_event(_error("internal_error", text)),)

    def _usage(self, made: int) -> dict[str, int]:
        return {"input_tokens": self.generated.prompt_tokens, "output_tokens": made}


def _event(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), encode(data))
