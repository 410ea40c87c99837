"""The events of a streamed answer as vLLM writes them: the fields that are read, and their bytes.

Pure. vLLM writes each event in one fixed form, which is matched as bytes; only an event of another
form is parsed. Matching bytes is exact: inside a JSON string every quote is escaped, so
`,"token_ids":[` can be nothing but a key.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WITH_TEXT = (CHAT, COMPLETIONS)
"""Paths whose streams can continue elsewhere; streams of other paths pass unchanged."""

ENDED = b"[DONE]"
"""The data of the event that ends a stream."""

DONE = b"data: %b\n\n" % ENDED
"""The event that ends a stream, as vLLM writes it."""

CHOICES = b'"choices":['

ABORTED = "abort"
"""The finish reason that vLLM gives to answers that are unfinished when it is stopped."""

NULL = Raw(b"null")

COUNTS = ("prompt_tokens", "total_tokens", "completion_tokens")
"""The counts in an answer's usage; its other fields are details."""

_TEXT = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_CHAT_CHOICE = re.compile(
    rb'\{"index":0,"delta":\{"content":%b\},"logprobs":null,"finish_reason":null,"token_ids":\[([\d,]+)\]'
    % _TEXT
)
_COMPLETION_CHOICE = re.compile(
    rb'\{"index":0,"text":%b,"logprobs":null,"finish_reason":null,"stop_reason":null,'
    rb'"prompt_token_ids":null,"token_ids":\[([\d,]+)\]' % _TEXT
)
_ID_LISTS = re.compile(rb'(?<=[,{\s])("(?:prompt_)?token_ids"\s*:\s*)\[[\d,\s]*\]')


class Delta(Struct):
    """What an event of a chat adds to its message."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class Choice(Struct):
    """One choice of an event: a chat's has a `delta`, a completion's a `text`."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: Any = None

    @property
    def opens(self) -> bool:
        """Whether it only names the role, as the first event of a chat does."""
        return self.delta is not None and self.delta.role is not None and not self.delta.content


class Error(Struct):
    """The error in an event with which an engine ends a stream."""

    code: int | str | None = None


class Chunk(Struct):
    """The fields of one event that are read."""

    choices: list[Choice] = []
    usage: dict[str, Any] | None = None
    prompt_token_ids: list[int] | None = None
    error: Error | None = None


chunks = msgspec.json.Decoder(Chunk)
objects = msgspec.json.Decoder(dict[str, Raw])
choice_lists = msgspec.json.Decoder(list[dict[str, Raw]])


def common_choice(*, chat: bool) -> re.Pattern[bytes]:
    """Return what matches the choice of a common event: its text and its token ids are groups."""
    return _CHAT_CHOICE if chat else _COMPLETION_CHOICE


def without_ids(event: bytes) -> bytes:
    """Return an event without its token ids, as vLLM writes it if it is not asked for them."""
    return _ID_LISTS.sub(rb"\1null", event)


def joined(ids: list[int]) -> bytes:
    """Return token ids as in a JSON list, without the brackets."""
    return msgspec.json.encode(ids)[1:-1]
