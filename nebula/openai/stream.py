"""Passes on one streamed answer, event by event, as its client was promised it. Pure.

The engine is asked for token ids that most clients did not ask for, so every event is read, and
changed, on its way; ``transcript`` records what the client has got. After a cut `resume` says how
the next engine was asked; its events then come out as if the first engine had written them: same
id, same kind of chunk, usage counted over all parts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nebula.events.inference import Form
from nebula.events.reading import UNREADABLE
from nebula.openai.chunks import (
    ABORTED,
    CHAT,
    CHOICES,
    COUNTS,
    DONE,
    ENDED,
    NULL,
    Chunk,
    Error,
    choice_lists,
    chunks,
    common_choice,
    objects,
    without_ids,
)
from nebula.openai.sse import EventSplitter, data_of
from nebula.openai.token_usage import Tokens, TokenUsage, told
from nebula.openai.transcript import StreamTranscript

_USAGE = b'"usage"'
_UNKNOWN = "the engine writes its events in a form that is not understood"


class StreamRewriter:
    """Takes an engine's bytes, in order, and returns those for the client.

    `tracked`: the engine was asked for token ids, for an answer of one choice. `shown`: the client
    wants them too. `counted`: the engine was asked for its usage, which the client does not want.
    `tokens` is what the answer has taken so far. `failure` holds the event with which an engine
    ended itself: that event, and whatever follows it, is not returned.
    """

    def __init__(self, path: str, *, tracked: bool, shown: bool, counted: bool = False) -> None:
        self.chat = path == CHAT
        self.tracked = tracked
        self.shown = shown
        self.counted = counted
        self.failure = b""
        self.transcript = StreamTranscript()
        self._pattern = common_choice(chat=self.chat)
        self._head = b""
        self._at = 0
        self._splitter = EventSplitter()
        self._form = Form.ORIGINAL
        self._original = True
        self._before = 0
        self._usage_details: dict[str, Any] = {}
        self._roles_to_skip = 0
        self._told: Mapping[str, Any] | None = None
        self._counts = None if tracked else TokenUsage(path, streams=True)

    @property
    def tokens(self) -> Tokens:
        """The tokens that the answer has taken so far: as the client was told, if it was."""
        got = self.transcript
        if self._told is not None:
            return told(self._told)
        if self._counts is not None:
            return self._counts.tokens
        made = got.completion_tokens + got.without_text
        if got.prompt is None:
            return Tokens(completion=made or got.texts, counted="tokens" if made else "events")
        return Tokens(got.prompt_tokens, 0, made, "tokens")

    def resume(self, form: Form) -> None:
        """Expect another engine's answer; drop what the last engine had sent of an event."""
        self._form, self._original = form, form is Form.ORIGINAL
        self._splitter = EventSplitter()
        self.failure = b""
        self.transcript.cut()
        self._before = self.transcript.completion_tokens
        self._roles_to_skip = self.transcript.roles
        self._pattern = common_choice(chat=self.chat and form != Form.CONTINUED)

    def feed(self, message: bytes) -> bytes:
        """Take the engine's next bytes, return the client's next bytes."""
        if self._counts is not None:
            self._counts.feed(message)
        splitter = self._splitter
        if not splitter.kept and message.find(b"\n\n") == len(message) - 2 >= 0:
            return self._event(message)
        passes = self._original and not (self.tracked or self.counted)
        if passes and self.transcript.begun:
            return splitter.flush() + message if splitter.kept else message
        return self._events(splitter.feed(message))

    def _events(self, events: Sequence[bytes]) -> bytes:
        """Return what the client gets of events. Those of the fixed form take the fewest steps."""
        given = []
        match, add = self._pattern.match, self.transcript.add
        for event in events:
            found = match(event, self._at) if self._at and self._original else None
            if found is None or self.failure:
                given.append(self._event(event))
                continue
            text, ids = found.groups()
            add(text, ids)
            if not self.shown:
                start, end = found.span(2)
                event = event[: start - 1] + b"null" + event[end + 1 :]
            given.append(event)
        return b"".join(given)

    def flush(self) -> bytes:
        """Return what is left when the engine has closed its answer properly."""
        return self._splitter.flush()

    def closing(self, finish_reason: str, usage: bool) -> bytes:
        """Write the missing end of an answer that has all its tokens."""
        out, got = b"", self.transcript
        if got.done:
            return b""
        if not got.finish_reason:
            reason = msgspec.json.encode(finish_reason)
            out += self._written(b"", reason, b"null", b"[]" if self.shown else b"null") + b"]}\n\n"
        if usage and not got.usage_sent and self._head:
            counts = msgspec.json.encode(got.counts(got.completion_tokens))
            out += self._head + b'],"usage":' + counts + b"}\n\n"
        return out + DONE

    def _event(self, event: bytes) -> bytes:
        if self.failure:
            return b""
        if self._at:
            found = self._pattern.match(event, self._at)
            if found is not None:
                return self._fast_path(event, found)
        elif self._original and not self.tracked and self.transcript.begun:
            hidden = self.counted and _USAGE in event and _only_usage(event)
            return b"" if hidden else event
        return self._parsed(event)

    def _fast_path(self, event: bytes, found: re.Match[bytes]) -> bytes:
        text, ids = found.groups()
        self.transcript.add(text, ids)
        start, end = found.span(2)
        if self._original:
            return event if self.shown else event[: start - 1] + b"null" + event[end + 1 :]
        if self._form == Form.RESTARTED:
            ids = event[start - 1 : end + 1] if self.shown else b"null"
            return self._head + event[self._at : start - 1] + ids + event[end + 1 :]
        if event[end:] != b"]}]}\n\n":
            return self._rewritten(data_of(event) or b"")
        ids = event[start - 1 : end + 1] if self.shown else b"null"
        return self._written(text, b"null", b"null", ids) + b"]}\n\n"

    def _written(self, text: bytes, finish: bytes, stop: bytes, ids: bytes) -> bytes:
        """Write an event of one choice in the client's form, up to the end of the choice."""
        logprobs = b'"logprobs":null,"finish_reason":' + finish
        if self.chat:
            if finish != b"null":
                logprobs += b',"stop_reason":' + stop
            choice = b'{"index":0,"delta":{"content":"%b"},%b,"token_ids":%b}'
            return self._head + choice % (text, logprobs, ids)
        choice = (
            b'{"index":0,"text":"%b",%b,"stop_reason":%b,"prompt_token_ids":null,"token_ids":%b}'
        )
        return self._head + choice % (text, logprobs, stop, ids)

    def _parsed(self, event: bytes) -> bytes:
        got, data = self.transcript, data_of(event)
        if data is None:
            return event
        if data == ENDED:
            got.done = True
            return event
        try:
            chunk = chunks.decode(data)
        except UNREADABLE:
            got.obstacle = "the engine sent an event that is not understood"
            got.begun = True
            return event
        if chunk.error is not None:
            return self._failed(event, chunk.error)
        if any(choice.finish_reason == ABORTED for choice in chunk.choices):
            self.failure = event
            return b""
        self._measure(event, data, chunk)
        if not chunk.choices and chunk.usage is not None:
            if self.counted:
                return b""
            got.usage_sent = True
            self._told = chunk.usage
        if self._original:
            got.add_prompt(chunk)
            self._usage_details = self._usage_details or _details(chunk.usage)
        elif self._form == Form.CONTINUED:
            self._correct(chunk)
        only_ids = False
        for choice in chunk.choices:
            only_ids = got.add_choice(choice) or only_ids
        if self._form == Form.CONTINUED:
            return self._rewritten(data)
        if only_ids and not self.shown:
            return b""
        if self._form == Form.RESTARTED:
            if self._roles_to_skip and any(choice.opens for choice in chunk.choices):
                self._roles_to_skip -= 1
                got.roles -= 1
                got.add_prompt(chunk)
                return b""
            got.add_prompt(chunk)
            before, choices, rest = event.partition(CHOICES)
            event = self._head + rest if choices else before
        return event if self.shown or not self.tracked else without_ids(event)

    def _measure(self, event: bytes, data: bytes, chunk: Chunk) -> None:
        """Learn from the first event how all of them begin, and where their choices are."""
        before, choices, _ = data.partition(CHOICES)
        if not choices:
            if chunk.choices:
                self.transcript.obstacle, self.transcript.begun = _UNKNOWN, True
            return
        self._head = self._head or b"data: %b%b" % (before, choices)
        if self.tracked:
            self._at = event.find(CHOICES) + len(CHOICES)

    def _failed(self, event: bytes, error: Error) -> bytes:
        if isinstance(error.code, int) and error.code < 500:
            self.transcript.done = True
            return event
        self.failure = event
        return b""

    def _correct(self, chunk: Chunk) -> None:
        for choice in chunk.choices:
            if choice.prompt_token_ids is not None:
                self._before = self.transcript.correct(choice.prompt_token_ids)

    def _rewritten(self, data: bytes) -> bytes:
        """Write a completion event of another engine as one of this answer's own."""
        chunk = objects.decode(data)
        choices = choice_lists.decode(chunk.get("choices", b"[]"))
        out = self._head
        if choices:
            (choice, *_) = choices
            text = bytes(choice["text"])[1:-1]
            finish, stop = choice.get("finish_reason", NULL), choice.get("stop_reason", NULL)
            ids = bytes(choice.get("token_ids", NULL)) if self.shown else b"null"
            out = self._written(text, bytes(finish), bytes(stop), ids)
        out += b"]"
        for key, value in chunk.items():
            if key == "usage":
                out += b',"usage":' + self._usage(bytes(value), final=not choices)
            elif key not in ("id", "object", "created", "model", "choices", "usage"):
                out += b"," + msgspec.json.encode(key) + b":" + bytes(value)
        return out + b"}\n\n"

    def _usage(self, raw: bytes, *, final: bool) -> bytes:
        """Return the usage of all parts; `raw` is the usage that the last part's engine counted."""
        usage: dict[str, Any] | None = msgspec.json.decode(raw)
        if usage is None:
            return raw
        made = self._before + (usage.get("completion_tokens") or 0)
        usage |= self.transcript.counts(made)
        for key, value in self._usage_details.items():
            if value is not None or not final:
                usage.setdefault(key, value)
        prompt = usage.get("prompt_tokens_details")
        if isinstance(prompt, dict) and prompt.get("cached_tokens"):
            prompt["cached_tokens"] = min(prompt["cached_tokens"], self.transcript.prompt_tokens)
        if final:
            self._told = usage
        return msgspec.json.encode(usage)


def _only_usage(event: bytes) -> bool:
    """Return whether an event has nothing but a usage."""
    try:
        chunk = chunks.decode(data_of(event) or b"")
    except UNREADABLE:
        return False
    return not chunk.choices and chunk.usage is not None


def _details(usage: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (usage or {}).items() if key not in COUNTS}
