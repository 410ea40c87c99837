"""Reads what an engine says of the tokens that an answer took, as its bytes pass by. Pure.

vLLM ends its answers with a `usage`, in the words of OpenAI's or Anthropic's API. Inside a JSON
string every quote is escaped, so that `"usage":` can be nothing but a key. Other servers put blanks
around the colon.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from nebula.events.endpoints import REALTIME
from nebula.events.reading import UNREADABLE
from nebula.events.usage import Counted
from nebula.openai.chunks import COMPLETIONS

_MARK = b'"usage"'
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_BEGUN = re.compile(rb'"usage"\s*(?::\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*(?:\{[^{}]*)?)?)?\Z')
"""A usage that may go on with the next bytes."""
_LONGEST = 4096
_OPENING = b'"delta":{"role"'
"""What the event of a chat has that only opens a message."""


_Count = Annotated[int, Meta(ge=0, lt=2**53)]


class Tokens(Struct, frozen=True, gc=False):
    """The tokens of one answer."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    counted: Counted = "engine"


class TokenUsage:
    """Takes the bytes of an answer, in order; `tokens` is what is known by then.

    An answer tells its tokens at its end, and a session at the end of each of its turns.
    """

    def __init__(self, path: str, *, streams: bool) -> None:
        self._delta = b'"text":' if path == COMPLETIONS else b'"delta":'
        self._streams = streams
        self._turns = path == REALTIME.path
        self._told: Tokens | None = None
        self._events = 0
        self._kept = b""

    def feed(self, body: bytes) -> None:
        """Take the next bytes."""
        if self._streams:
            self._events += body.count(self._delta) - body.count(_OPENING)
        if self._kept:
            body = self._kept + body
        first = body.find(_MARK)
        if first < 0:
            self._kept = body[1 - len(_MARK) :]
            return
        end = 0
        for found in _USAGE.finditer(body, first):
            end = found.end()
            said = tokens_in(found[1], None if self._turns else self._told)
            self._told = _sum(self._told, said) if self._turns and self._told else said
        begun = body.rfind(_MARK, end)
        if begun >= 0 and len(body) - begun <= _LONGEST and _BEGUN.match(body, begun):
            self._kept = body[begun:]
        else:
            self._kept = body[end:][1 - len(_MARK) :]

    @property
    def tokens(self) -> Tokens:
        """The tokens as the engine has told them last, else as many as there were events.

        A stream may begin with a usage that has no tokens of the answer yet.
        """
        known = Tokens() if self._told is None else self._told
        if known.completion or self._events <= 0:
            return known
        return Tokens(known.prompt, known.cached, self._events, "events")


def _sum(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(
        one.prompt + other.prompt,
        one.cached + other.cached,
        one.completion + other.completion,
        one.counted,
    )


class _Details(Struct, frozen=True, gc=False):
    cached_tokens: _Count | None = None


class _Usage(Struct, frozen=True, gc=False):
    """A usage in the words of OpenAI's API."""

    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None
    input_tokens_details: None = None
    cache_read_input_tokens: None = None


_usage = msgspec.json.Decoder(_Usage)


def tokens_in(usage: bytes, before: Tokens | None = None) -> Tokens:
    """Return the tokens of the JSON of a usage; what it does not say is as `before`."""
    try:
        said = _usage.decode(usage)
    except UNREADABLE:
        return told(decoded(usage), before)
    details = said.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    if not cached:
        cached = 0 if before is None else before.cached
    return Tokens(said.prompt_tokens, cached, said.completion_tokens)


def of_whole(body: bytes) -> Tokens:
    """Return the tokens of an answer that is complete, and not a stream."""
    at = body.rfind(_MARK)
    found = _USAGE.match(body, at) if at >= 0 else None
    if found is not None:
        return tokens_in(found[1])
    usage = TokenUsage("", streams=False)
    usage.feed(body)
    return usage.tokens


def decoded(usage: bytes) -> Mapping[str, Any]:
    """Return a usage as a mapping; an empty one if it is not JSON."""
    try:
        return msgspec.json.decode(usage, type=dict[str, Any])
    except UNREADABLE:
        return {}


def told(usage: Mapping[str, Any], before: Tokens | None = None) -> Tokens:
    """Return the tokens of a usage; what it does not say is as `before`."""
    before = before or Tokens()
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    total = _count(usage, "total_tokens")
    if prompt is None and total is not None:
        prompt = max(0, total - (completion or 0))
    cached = _count(usage, "cache_read_input_tokens")
    for details in ("prompt_tokens_details", "input_tokens_details"):
        if isinstance(usage.get(details), dict):
            cached = _count(usage[details], "cached_tokens") or cached
    return Tokens(
        before.prompt if prompt is None else prompt,
        before.cached if cached is None else cached,
        before.completion if completion is None else completion,
    )


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and 0 <= value < 2**53:
            return value
    return None
