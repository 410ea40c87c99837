"""The answers of a simulated engine to chats and completions: words that follow from the request.

Pure: no clock, no I/O. Ids and times come in. The shapes are those of vLLM 0.32
(``vllm/entrypoints/openai/*/protocol.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from nebula.engines.simulated_http import Refusal, encode
from nebula.engines.simulated_tokens import Prompt, id_of, ids_of

VERSION: Final = "0.32.0+simulated"
"""The vLLM whose shapes are copied."""

FINGERPRINT: Final = f"vllm-{VERSION}"
DONE: Final = b"data: [DONE]\n\n"

_UNSAID = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
_NO_DETAILS = {"prompt_tokens_details": None, "completion_tokens_details": None}


def fitting(prompt_tokens: int, limit: int, room: int = 1) -> int:
    """Return the length of a prompt. Raise Refusal, in vLLM's words, if it exceeds the context.

    `limit`: tokens of the context; `room`: those that the answer needs at least.
    """
    if prompt_tokens + room > limit:
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


class Answer(msgspec.Struct, frozen=True):
    """A generated answer, before it is written as one body or as a stream of events.

    ``said``: how many of its tokens the prompt already has. ``prompt_ids``: whether the client
    wants token ids. ``interval``: tokens per event of a stream, except for the first and last
    event.
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
    include_usage: bool = False

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
        space = " " if self.said and self.tokens else ""
        text = space + " ".join(self.tokens)
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

    def before(self) -> tuple[bytes, ...]:
        """The events that a stream begins with, before the request has its turn: none."""
        return ()

    def opening(self) -> tuple[bytes, ...]:
        """The event before the first token: a chat's carries the role; a completion has none."""
        if not self.chat:
            return ()
        delta = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null'
        told = b'],"prompt_token_ids":%b,"prompt_text":null}\n\n' % encode(self.prompt_ids)
        return (self._head() + delta + b',"finish_reason":null}' + told,)

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
            text = " ".join(tokens[begin:end])
            if text and (begin or self.said):
                text = " " + text
            reason = self.finish_reason if end == len(tokens) else None
            ids = None if self.prompt_ids is None else ids_of(tokens[begin:end])
            yield head + encode(text) + self._end(encode(reason), told, encode(ids))
            told = b"null"

    def _before_text(self) -> bytes:
        return self._head() + b'{"index":0,' + (b'"delta":{"content":' if self.chat else b'"text":')

    def closing(self) -> tuple[bytes, ...]:
        """The events after the last token: the usage where it was asked for, and the end."""
        if not self.include_usage:
            return (DONE,)
        return (self._head() + b'],"usage":' + encode(self.usage()) + b"}\n\n", DONE)

    def failing(self, failure: Refusal) -> tuple[bytes, ...]:
        """What a stream ends with that fails in the middle."""
        return (b"data: " + failure.body + b"\n\n" + DONE,)


def batch_body(answers: Sequence[Answer]) -> bytes:
    """The answer to a batch of chats, in the order of the chats."""
    usages = [answer.usage() for answer in answers]
    usage = {key: sum(each[key] for each in usages) for key in usages[0]}
    first = answers[0]
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": " ".join(answer.tokens), **_UNSAID},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": None,
            "token_ids": None if answer.prompt_ids is None else ids_of(answer.tokens),
            "routed_experts": None,
        }
        for index, answer in enumerate(answers)
    ]
    return encode(
        {
            "id": first.id,
            "object": "chat.completion",
            "created": first.created,
            "model": first.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {**usage, **_NO_DETAILS},
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )
