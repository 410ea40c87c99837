"""The answers of a simulated engine: words, vectors and bytes that follow from the request alone.

Pure: no clock, no I/O. Ids and times come in. The shapes are those of vLLM 0.32
(``vllm/entrypoints/openai/*/protocol.py``, ``vllm/entrypoints/pooling/embed/protocol.py``).
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import msgspec

from nebula.engines.simulated_http import Refusal, encode, invalid
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

    def answered(self) -> Message:
        """The last message of the user, or the last message if there is none."""
        if not self.messages:
            raise invalid("body.messages", "List should have at least 1 item")
        said = (message for message in reversed(self.messages) if message.role == "user")
        return next(said, self.messages[-1])

    def read(self) -> Prompt:
        """The prompt has one token for each word of every message."""
        words = self.answered().text().split()
        return Prompt(words, sum(len(message.text().split()) for message in self.messages))

    def prompt_ids(self) -> list[int]:
        """The prompt's token ids."""
        answered = self.answered()
        return [
            id_of(word, REPEATED if message is answered else CONTEXT)
            for message in self.messages
            for word in message.text().split()
        ]


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


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings: texts, or a chat as one text."""

    input: str | list[str | int | list[int]] | None = None
    messages: list[Message] | None = None
    model: str | None = None
    encoding_format: str = "float"

    def texts(self) -> list[str]:
        """The texts, each of which gets a vector. Raise Refusal."""
        if self.input is not None:
            return texts_of(self.input)
        if not self.messages:
            raise invalid("body.input", "Field required", "missing")
        return [" ".join(message.text() for message in self.messages)]


def texts_of(value: str | list[Any]) -> list[str]:
    """The texts in a ``prompt`` or ``input``: a text, texts, token ids, or lists of token ids."""
    if isinstance(value, str):
        return [value]
    if value and all(isinstance(item, int) for item in value):
        return [" ".join(map(str, value))]
    if any(isinstance(item, int) for item in value):
        raise invalid("body", "Texts and token ids cannot be mixed")
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value]


def fitting(prompt_tokens: int, limit: int) -> int:
    """Return the length of a prompt. Raise Refusal, in vLLM's words, if it exceeds the context.

    `limit`: tokens of the context.
    """
    if prompt_tokens >= limit:
        text = (
            f"This model's maximum context length is {limit} tokens. However, your prompt "
            f"contains {prompt_tokens} input tokens, which exceeds this limit even without "
            "any output tokens. Please reduce the length of the input prompt."
        )
        raise Refusal(400, text, "BadRequestError", "input_tokens")
    return prompt_tokens


def tokens_of(prompt: Prompt, count: int, adapter: str | None = None) -> list[str]:
    """The next ``count`` tokens of the answer: the prompt's words, again and again.

    The first of them names the adapter, so that a test sees which one answered.
    """
    words = prompt.words or ["nothing"]
    head = [f"[{adapter}]"] if adapter else []
    if prompt.said:
        at = (prompt.said - len(head)) % len(words)
        words, head = words[at:] + words[:at], []
    missing = max(0, count - len(head))
    return head[:count] + (words * (missing // len(words) + 1))[:missing]


def vector_of(text: str, dimensions: int) -> tuple[float, ...]:
    """The unit vector of ``text``: float32 values, the same for the same text everywhere."""
    digest = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", digest)
    norm = math.hypot(*raw) or 1.0
    packed = struct.pack(f"<{dimensions}f", *(value / norm for value in raw))
    return struct.unpack(f"<{dimensions}f", packed)


def embeddings_body(
    request: EmbeddingRequest, answer_id: str, created: int, model: str, dimensions: int
) -> bytes:
    """The whole answer to an embedding request; base64 is of little-endian float32."""
    texts = request.texts()
    if request.encoding_format not in ("float", "base64"):
        raise invalid("body.encoding_format", "Input should be 'float' or 'base64'")
    data = []
    for index, text in enumerate(texts):
        vector: tuple[float, ...] | str = vector_of(text, dimensions)
        if request.encoding_format == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"index": index, "object": "embedding", "embedding": vector})
    count = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}
    return encode(
        {
            "id": answer_id,
            "object": "list",
            "created": created,
            "model": model,
            "data": data,
            "usage": usage,
        }
    )


class Answer(msgspec.Struct, frozen=True):
    """A generated answer, before it is written as one body or as a stream of events.

    ``said``: how many of its tokens the prompt has already. ``prompt_ids``: where the client wants
    token ids. ``interval``: how many tokens each event of a stream has, but for the first and last.
    """

    chat: bool
    id: str
    created: int
    model: str
    tokens: list[str]
    finish_reason: str
    prompt_tokens: int
    said: int = 0
    prompt_ids: list[int] | None = None
    interval: int = 1

    def usage(self) -> dict[str, Any]:
        """OpenAI's ``usage``."""
        made = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + made,
            "completion_tokens": made,
        }

    def body(self) -> bytes:
        """The answer in one piece."""
        text = " ".join([""] * bool(self.said and self.tokens) + self.tokens)
        ids = None if self.prompt_ids is None else ids_of(self.tokens)
        told = {"prompt_token_ids": self.prompt_ids}
        said: dict[str, Any] = {"text": text}
        if self.chat:
            message: dict[str, Any] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "tool_calls": [],
            }
            said = {"message": message}
        end = {"finish_reason": self.finish_reason, "stop_reason": None, "token_ids": ids}
        choice = {"index": 0, **said, "logprobs": None, **end, **({} if self.chat else told)}
        return encode(
            {
                "id": self.id,
                "object": "chat.completion" if self.chat else "text_completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "usage": {**self.usage(), "prompt_tokens_details": None},
                **(told if self.chat else {}),
            }
        )

    def _head(self) -> bytes:
        """What all events of the stream begin with, up to the choices."""
        kind = b"chat.completion.chunk" if self.chat else b"text_completion"
        ours = (encode(self.id), kind, self.created, encode(self.model))
        return b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % ours

    def opening(self) -> bytes:
        """The event before the first token: a chat's carries the role; a completion has none."""
        if not self.chat:
            return b""
        delta = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null'
        told = b'],"prompt_token_ids":%b,"prompt_text":null}\n\n' % encode(self.prompt_ids)
        return self._head() + delta + b',"finish_reason":null}' + told

    def _end(self, reason: bytes, prompt_ids: bytes = b"null", ids: bytes = b"null") -> bytes:
        """What an event of one token ends with, after its text."""
        if not self.chat:
            end = b',"logprobs":null,"finish_reason":%b,"stop_reason":null,"prompt_token_ids":%b'
            return end % (reason, prompt_ids) + b',"token_ids":%b}]}\n\n' % ids
        stop = b"" if reason == b"null" else b',"stop_reason":null'
        end = b'},"logprobs":null,"finish_reason":%b%b,"token_ids":%b}]}\n\n'
        return end % (reason, stop, ids)

    def events(self) -> Iterator[bytes]:
        """One server-sent event for each token; the last one says why the answer ends."""
        if self.interval > 1:
            yield from self._grouped()
            return
        head = self._before_text()
        *others, final = self.tokens or [""]
        space = " " if self.said else ""
        ids, told = b"null", b"null"
        if self.prompt_ids is None:
            more = self._end(b"null")
            for token in others:
                yield head + encode(space + token) + more
                space = " "
        else:
            told = encode(self.prompt_ids)
            form, ends = self._end(b"null", told, b"[%d]"), dict[str, bytes]()
            for token in others:
                end = ends.get(token)  # a word comes again and again
                if end is None:
                    end = ends[token] = form % id_of(token)
                yield head + encode(space + token) + end
                if told != b"null":
                    told, space = b"null", " "
                    form, ends = self._end(b"null", told, b"[%d]"), {}
            ids = encode(ids_of(self.tokens[-1:]))
        text = space + final if self.tokens else ""
        yield head + encode(text) + self._end(encode(self.finish_reason), told, ids)

    def _grouped(self) -> Iterator[bytes]:
        """The events of a client that wants several tokens in each."""
        head, tokens = self._before_text(), self.tokens
        bounds = [0, *range(1, len(tokens), self.interval), len(tokens)]
        told = encode(self.prompt_ids)
        for begin, end in pairwise(bounds):
            text = " ".join([""] * bool(begin or self.said) + tokens[begin:end])
            reason = self.finish_reason if end == len(tokens) else None
            ids = None if self.prompt_ids is None else ids_of(tokens[begin:end])
            yield head + encode(text) + self._end(encode(reason), told, encode(ids))
            told = b"null"

    def _before_text(self) -> bytes:
        return self._head() + b'{"index":0,' + (b'"delta":{"content":' if self.chat else b'"text":')

    def closing(self, include_usage: bool) -> bytes:
        """The event after the last token: the usage where it was asked for, else nothing."""
        if not include_usage:
            return b""
        return self._head() + b'],"usage":' + encode(self.usage()) + b"}\n\n"
