"""One streamed answer, event by event: what of it was given to the client, and from where it can
be taken up elsewhere. Pure.

The engine is asked for token ids that most clients did not ask for, so every event is read, and
changed, on its way. vLLM writes each event in one fixed form; that form is matched as bytes, and
only what has another form is parsed. Matching bytes is exact: inside a JSON string every quote is
escaped, so `,"token_ids":[` can be nothing but a key.

After a cut `resume` says what the next engine is asked; its events then come out as if the first
engine had written them: same id, same kind of chunk, usage counted over all parts.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from nebula.events.reading import UNREADABLE

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WITH_TEXT = (CHAT, COMPLETIONS)
"""Paths whose streams can go on elsewhere; streams of other paths pass as they are."""

_DONE = b"data: [DONE]\n\n"
_TEXT = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_CHAT_CHOICE = re.compile(
    rb'\{"index":0,"delta":\{"content":%b\},"logprobs":null,"finish_reason":null,"token_ids":\[([\d,]+)\]'
    % _TEXT
)
_COMPLETION_CHOICE = re.compile(
    rb'\{"index":0,"text":%b,"logprobs":null,"finish_reason":null,"stop_reason":null,'
    rb'"prompt_token_ids":null,"token_ids":\[([\d,]+)\]' % _TEXT
)
_ID_LISTS = re.compile(rb'(?<=[,{])"((?:prompt_)?token_ids)":\[[\d,]*\]')
_CHOICES = b'"choices":['
_NULL = Raw(b"null")
_AROUND = 16
_COUNTS = ("prompt_tokens", "total_tokens", "completion_tokens")

ABORTED = "abort"
"""What vLLM says of the answers that it has not finished when it is stopped."""

Form = Literal["own", "again", "rest"]
"""How the engine answers now: as the client was promised; the same, but from the start once more;
or with completion events that hold the rest."""


class _Delta(Struct):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: Any = None


class _Error(Struct):
    code: int | str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    prompt_token_ids: list[int] | None = None
    error: _Error | None = None


_chunks = msgspec.json.Decoder(_Chunk)
_objects = msgspec.json.Decoder(dict[str, Raw])
_choice_lists = msgspec.json.Decoder(list[dict[str, Raw]])


class StreamTranscript:
    """How far one streamed answer has come. Feed it everything, in order; send what it gives back.

    `tracked`: the engine was asked for token ids, for an answer of one choice. `shown`: the client
    wants them too. `failure` holds an event by which the engine told its own end: it was not given
    back, and nothing after it is.
    """

    def __init__(self, path: str, *, tracked: bool, shown: bool) -> None:
        self.chat = path == CHAT
        self.tracked = tracked
        self.shown = shown
        self.begun = False
        self.finish_reason = ""
        self.usage_sent = False
        self.done = False
        self.obstacle = ""
        self.failure = b""
        self.prompt: bytes | None = None
        self.roles = 0
        self.texts = 0
        self._pattern = _CHAT_CHOICE if self.chat else _COMPLETION_CHOICE
        self._ids = bytearray()  # each with a comma behind it
        self._last = b""  # those of the last event that had text
        self._textless: list[bytes] = []
        self._head = b""
        self._at = 0
        self._incomplete = b""
        self._form: Form = "own"
        self._before = 0
        self._usage_details: dict[str, Any] = {}
        self._roles_to_skip = 0

    @property
    def ids(self) -> bytes:
        """The token ids whose text the client has, as in a JSON list."""
        return bytes(self._ids[:-1])

    @property
    def completion_tokens(self) -> int:
        """How many of them there are."""
        return self._ids.count(b",")

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the client's prompt has."""
        return self.prompt.count(b",") + 1 if self.prompt else 0

    @property
    def textless(self) -> bool:
        """Whether the last tokens gave no text yet: a character of which a part is missing."""
        return bool(self._textless)

    @property
    def doubtful(self) -> bytes:
        """The last ids, where it is not certain that the last of them gave all its text.

        An event of one token has text only once that ends a character. An event of several tokens
        may have text from the first of them only. The ids begin some characters earlier, so that
        each character that ends in them begins in them too.
        """
        if b"," not in self._last:
            return b""
        ids = b",".join(part for part in (self.prompt, self.ids) if part).split(b",")
        return b",".join(ids[-self._last.count(b",") - _AROUND :])

    def settle(self, text: str) -> None:
        """Take what the engine says is the text of the doubtful ids."""
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._last = b""
            return
        self._last, _, last = self._last.rpartition(b",")
        self._textless.insert(0, last)
        del self._ids[-len(last) - 1 :]

    def resume(self, form: Form) -> None:
        """Another engine goes on from here. What the last one had sent of an event is void."""
        self._form = form
        self._incomplete = self.failure = b""
        self._textless.clear()
        self._before = self.completion_tokens
        self._roles_to_skip = self.roles
        self._pattern = _COMPLETION_CHOICE if form == "rest" or not self.chat else _CHAT_CHOICE

    def feed(self, message: bytes) -> bytes:
        """Take the next bytes of the answer, give back what the client gets of them."""
        if not self._incomplete and message.find(b"\n\n") == len(message) - 2 >= 0:
            return self._event(message)
        if self.begun and not self.tracked and self._form == "own":
            message, self._incomplete = self._incomplete + message, b""
            return message
        whole, end, self._incomplete = (self._incomplete + message).rpartition(b"\n\n")
        if not end:
            return b""
        return self._events([event + b"\n\n" for event in whole.split(b"\n\n")])

    def _events(self, events: Sequence[bytes]) -> bytes:
        """Return what the client gets of events. Those of the fixed form take the fewest steps."""
        given = []
        match = self._pattern.match
        for event in events:
            found = match(event, self._at) if self._at and self._form == "own" else None
            if found is None or not found[1] or self._textless or self.failure:
                given.append(self._event(event))
                continue
            ids = found[2]
            self._ids += ids + b","
            self._last = ids
            self.texts += 1
            if not self.shown:
                start, end = found.span(2)
                event = event[: start - 1] + b"null" + event[end + 1 :]
            given.append(event)
            self.begun = True
        return b"".join(given)

    def flush(self) -> bytes:
        """Return what is left when the engine has closed its answer properly."""
        rest, self._incomplete = self._incomplete, b""
        return rest

    def _event(self, event: bytes) -> bytes:
        if self.failure:
            return b""
        if self._at:
            found = self._pattern.match(event, self._at)
            if found is not None:
                return self._fast_path(event, found)
        elif self.begun and not self.tracked and self._form == "own":
            return event
        return self._parsed(event)

    def _fast_path(self, event: bytes, found: re.Match[bytes]) -> bytes:
        text, ids = found.groups()
        self.begun = True
        if text:
            if self._textless:
                self._keep_textless()
            self._ids += ids + b","
            self._last = ids
            self.texts += 1
        else:
            self._textless.append(ids)
        start, end = found.span(2)
        if self._form == "own":
            return event if self.shown else event[: start - 1] + b"null" + event[end + 1 :]
        if self._form == "again":
            ids = event[start - 1 : end + 1] if self.shown else b"null"
            return self._head + event[self._at : start - 1] + ids + event[end + 1 :]
        if event[end:] != b"]}]}\n\n":
            return self._rewritten(event)
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
        if event == _DONE:
            self.done = True
            return event
        if not event.startswith(b"data: "):
            return event
        try:
            chunk = _chunks.decode(event[6:])
        except UNREADABLE:
            self.obstacle = "the engine sent an event that is not understood"
            self.begun = True
            return event
        if chunk.error is not None:
            return self._failed(event, chunk.error)
        if any(choice.finish_reason == ABORTED for choice in chunk.choices):
            self.failure = event
            return b""
        self._measure(event)
        if not chunk.choices and chunk.usage is not None:
            self.usage_sent = True
        if self._form == "own":
            self._note_prompt(chunk)
            self._usage_details = self._usage_details or _details(chunk.usage)
        elif self._form == "rest":
            self._note_kept(chunk)
        added = False
        for choice in chunk.choices:
            added = self._note(choice) or added
        if self._form == "rest":
            return self._rewritten(event)
        if added and not self.shown:
            return b""
        if self._form == "again":
            if self._roles_to_skip and any(_opens(choice) for choice in chunk.choices):
                self._roles_to_skip -= 1
                self.roles -= 1
                self._note_prompt(chunk)
                return b""
            self._note_prompt(chunk)
            event = self._head + event[event.find(_CHOICES) + len(_CHOICES) :]
        return event if self.shown or not self.tracked else _ID_LISTS.sub(rb'"\1":null', event)

    def _measure(self, event: bytes) -> None:
        """Learn from the first event what all begin with, and where their choices are."""
        at = event.find(_CHOICES) + len(_CHOICES)
        if at < len(_CHOICES):
            return
        self._head = self._head or event[:at]
        if self.tracked:
            self._at = at

    def _failed(self, event: bytes, error: _Error) -> bytes:
        if isinstance(error.code, int) and error.code < 500:
            self.done = True
            return event
        self.failure = event
        return b""

    def _note_prompt(self, chunk: _Chunk) -> None:
        ids = chunk.prompt_token_ids
        for choice in chunk.choices:
            ids = choice.prompt_token_ids if ids is None else ids
        if ids is not None and self.prompt is None:
            self.prompt = _joined(ids)

    def _note_kept(self, chunk: _Chunk) -> None:
        """Take what the next engine was asked with for what was kept of the last one's tokens.

        A reader of an answer that is over has not heard how doubtful ids were settled.
        """
        for choice in chunk.choices:
            if choice.prompt_token_ids is not None:
                kept = choice.prompt_token_ids[self.prompt_tokens :]
                self._ids = bytearray(_joined(kept) + b"," if kept else b"")
                self._before = len(kept)

    def _note(self, choice: _Choice) -> bool:
        """Fold one choice in. True where the event is there for its token ids alone."""
        delta = choice.delta
        if delta is not None and delta.role is not None and not delta.content:
            self.roles += 1
            return False
        self.begun = True
        text = choice.text
        if delta is not None:
            text = delta.content
            if delta.reasoning or delta.reasoning_content:
                self.obstacle = "the model's reasoning is told apart from its answer"
            elif delta.tool_calls:
                self.obstacle = "the answer calls tools"
            elif text is None and choice.finish_reason is None:
                self.obstacle = "a parser of the engine holds text back"
                if choice.logprobs is None and choice.token_ids is not None:
                    return True
        if choice.logprobs is not None:
            self.obstacle = "log probabilities are in the answer"
        ids = _joined(choice.token_ids) if choice.token_ids else b""
        if ids:
            self._textless.append(ids)
        if text or choice.finish_reason is not None:
            self._keep_textless()
            self._last = ids
        self.texts += bool(text)
        self.finish_reason = choice.finish_reason or self.finish_reason
        return False

    def _keep_textless(self) -> None:
        for ids in self._textless:
            self._ids += ids + b","
        self._textless.clear()

    def _rewritten(self, event: bytes) -> bytes:
        """Write a completion event of another engine as one of this answer's own."""
        chunk = _objects.decode(event[6:])
        choices = _choice_lists.decode(chunk.get("choices", b"[]"))
        out = self._head
        if choices:
            (choice, *_) = choices
            text = bytes(choice["text"])[1:-1]
            finish, stop = choice.get("finish_reason", _NULL), choice.get("stop_reason", _NULL)
            ids = bytes(choice.get("token_ids", _NULL)) if self.shown else b"null"
            out = self._written(text, bytes(finish), bytes(stop), ids)
        out += b"]"
        for key, value in chunk.items():
            if key == "usage":
                out += b',"usage":' + self._usage(bytes(value), final=not choices)
            elif key not in ("id", "object", "created", "model", "choices", "usage"):
                out += b"," + msgspec.json.encode(key) + b":" + bytes(value)
        return out + b"}\n\n"

    def _usage(self, raw: bytes, *, final: bool) -> bytes:
        """Count the tokens of all parts in what the last part's engine says of its own."""
        usage: dict[str, Any] | None = msgspec.json.decode(raw)
        if usage is None:
            return raw
        made = self._before + (usage.get("completion_tokens") or 0)
        usage |= self._counts(made)
        for key, value in self._usage_details.items():
            if value is not None or not final:
                usage.setdefault(key, value)
        prompt = usage.get("prompt_tokens_details")
        if isinstance(prompt, dict) and prompt.get("cached_tokens"):
            prompt["cached_tokens"] = min(prompt["cached_tokens"], self.prompt_tokens)
        return msgspec.json.encode(usage)

    def _counts(self, made: int) -> dict[str, int]:
        prompt = self.prompt_tokens
        counts = (prompt, prompt + made, made)
        return dict(zip(_COUNTS, counts, strict=True))

    def closing(self, finish_reason: str, usage: bool) -> bytes:
        """Write what is missing at the end of an answer of which no token is missing."""
        out = b""
        if not self.finish_reason:
            reason = msgspec.json.encode(finish_reason)
            out += self._written(b"", reason, b"null", b"[]" if self.shown else b"null") + b"]}\n\n"
        if usage and not self.usage_sent:
            counts = msgspec.json.encode(self._counts(self.completion_tokens))
            out += self._head + b'],"usage":' + counts + b"}\n\n"
        return out if self.done else out + _DONE


def _opens(choice: _Choice) -> bool:
    return choice.delta is not None and choice.delta.role is not None and not choice.delta.content


def _details(usage: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (usage or {}).items() if key not in _COUNTS}


def _joined(ids: list[int]) -> bytes:
    return msgspec.json.encode(ids)[1:-1]
