"""The requests that a simulated engine answers with words: chats and completions. Pure.

The fields are those of vLLM 0.32 (``vllm/entrypoints/openai/*/protocol.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from nebula.engines.simulated_http import Refusal, invalid
from nebula.engines.simulated_tokens import CONTEXT, REPEATED, Prompt, id_of, ids_of, read


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; parts that are not text count as empty."""

    text: str = ""


class Message(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return " ".join(part.text for part in self.content or ())


def answered(messages: Sequence[Message]) -> Message:
    """The last message of the user, or the last message if there is none. Raise Refusal."""
    if not messages:
        text = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise Refusal(400, text, "BadRequestError")
    said = (message for message in reversed(messages) if message.role == "user")
    return next(said, messages[-1])


def prompt_of(messages: Sequence[Message]) -> Prompt:
    """The prompt that a chat is: one token for each word of every message. Raise Refusal."""
    words = answered(messages).text().split()
    return Prompt(words, sum(len(message.text().split()) for message in messages))


def ids_of_chat(messages: Sequence[Message]) -> list[int]:
    """The token ids of the prompt that a chat is. Raise Refusal."""
    repeated = answered(messages)
    return [
        id_of(word, REPEATED if message is repeated else CONTEXT)
        for message in messages
        for word in message.text().split()
    ]


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's ``stream_options``."""

    include_usage: bool | None = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The common fields of a chat and a completion; every other field is ignored."""

    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    return_token_ids: bool | None = None
    stream_interval: int | None = None
    stream: bool | int | float | str | None = False
    stream_options: StreamOptions | None = None

    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_tokens

    def streams(self) -> bool:
        """Whether the answer is streamed. Raise Refusal for what pydantic refuses."""
        if isinstance(self.stream, bool):
            return self.stream
        said = self.stream.lower() if isinstance(self.stream, str) else self.stream
        if said in ("true", "t", "yes", "y", "on", "1", 1):
            return True
        if said in ("false", "f", "no", "n", "off", "0", 0, None):
            return False
        raise invalid("body.stream", "Input should be a valid boolean", "bool_parsing")

    def length(self, natural: int) -> tuple[int, str]:
        """How many tokens the answer has and why it ends there, if it would end at ``natural``."""
        natural = max(0, natural, self.min_tokens)
        limit = self.limit()
        if limit is None:
            return natural, "stop"
        if limit < 1:
            text = f"max_tokens must be at least 1, got {limit}."
            raise Refusal(400, text, "BadRequestError", "max_tokens")
        return (limit, "length") if limit < natural or self.ignore_eos else (natural, "stop")


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Message]

    def limit(self) -> int | None:
        """As its newer name says, or else the older."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def read(self) -> Prompt:
        """The prompt has one token for each word of every message. Raise Refusal."""
        if not self.messages:
            raise invalid("body.messages", "List should have at least 1 item")
        return prompt_of(self.messages)

    def prompt_ids(self) -> list[int]:
        """The prompt's token ids."""
        return ids_of_chat(self.messages)


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions; the prompt is one text or one list of token ids."""

    prompt: str | list[str | int | list[int]] | None = None
    prompt_embeds: str | list[str] | None = None

    def limit(self) -> int | None:
        """vLLM's own limit where none is given."""
        return 16 if self.max_tokens is None else self.max_tokens

    def _one(self) -> str | list[int]:
        """The prompt; refused unless it is exactly one."""
        prompt: Any = self.prompt
        if prompt is None:
            text = "Either prompt or prompt_embeds must be provided and non-empty."
            if self.prompt_embeds:
                text = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
            raise Refusal(400, text, "BadRequestError")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        whole = isinstance(prompt, str) or (prompt and all(type(item) is int for item in prompt))
        if not whole:
            text = "The simulated engine takes exactly one prompt in a request."
            raise Refusal(400, text, "BadRequestError", "prompt")
        return cast("str | list[int]", prompt)

    def read(self) -> Prompt:
        """A text has one token for each word."""
        prompt = self._one()
        if isinstance(prompt, list):
            return read(prompt)
        words = prompt.split()
        return Prompt(words, len(words))

    def prompt_ids(self) -> list[int]:
        """The prompt's token ids."""
        prompt = self._one()
        return ids_of(prompt.split(), REPEATED) if isinstance(prompt, str) else prompt


class BatchRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions/batch: several chats, none of them streamed."""

    messages: Annotated[list[Annotated[list[Message], Meta(min_length=1)]], Meta(min_length=1)]
    n: int | None = 1

    def limit(self) -> int | None:
        """As its newer name says, or else the older."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def check(self) -> None:
        """Raise Refusal for what a batch may not ask for."""
        if self.n not in (None, 1):
            text = "Batch chat completions do not support `n > 1`. Please set `n` to 1."
            said = f"{text} (parameter=n, value={self.n})"
            raise Refusal(400, said, "BadRequestError", "n")
