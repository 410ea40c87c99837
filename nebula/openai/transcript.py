"""What a client has of a streamed answer, and what keeps the answer from being continued. Pure.

From this follows what another engine is asked for once the first has died (``continuation``).
``stream`` records here what it passes on.
"""

from nebula.openai.chunks import COUNTS, Choice, Chunk, joined

_AROUND = 16


class StreamTranscript:
    """How far one streamed answer has come.

    `obstacle`: why it can't be continued, "" if it can. `roles`: number of events that named a
    role; `texts`: number of events that had text. `prompt`: the token ids of the client's prompt,
    None while they are unknown. `done`: whether the event that ends the stream has come.
    """

    def __init__(self) -> None:
        self.begun = False
        self.finish_reason = ""
        self.usage_sent = False
        self.done = False
        self.obstacle = ""
        self.prompt: bytes | None = None
        self.roles = 0
        self.texts = 0
        self._ids = bytearray()  # each with a comma behind it
        self._last = b""  # those of the last event that had text
        self._textless: list[bytes] = []

    @property
    def ids(self) -> bytes:
        """The token ids whose text the client has, as in a JSON list."""
        return bytes(self._ids[:-1])

    @property
    def completion_tokens(self) -> int:
        """The number of `ids`."""
        return self._ids.count(b",")

    @property
    def without_text(self) -> int:
        """The number of the last tokens that have no text yet."""
        return sum(ids.count(b",") + 1 for ids in self._textless)

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens in the client's prompt."""
        return self.prompt.count(b",") + 1 if self.prompt else 0

    @property
    def textless(self) -> bool:
        """Whether the last tokens have no text yet, because they end inside a character."""
        return bool(self._textless)

    @property
    def possibly_incomplete_ids(self) -> bytes:
        """The last ids, if the last of them may not have given all its text; else empty.

        An event of one token has text only once that ends a character. An event of several tokens
        may have text from the first of them only. The ids begin some characters earlier, so that
        each character that ends in them begins in them too.
        """
        if b"," not in self._last:
            return b""
        ids = b",".join(part for part in (self.prompt, self.ids) if part).split(b",")
        return b",".join(ids[-self._last.count(b",") - _AROUND :])

    def settle(self, text: str) -> None:
        """Record the text that the engine makes of `possibly_incomplete_ids`."""
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._last = b""
            return
        self._last, _, last = self._last.rpartition(b",")
        self._textless.insert(0, last)
        del self._ids[-len(last) - 1 :]

    def cut(self) -> None:
        """Forget the tokens without text: the next engine writes them again."""
        self._textless.clear()

    def add(self, text: bytes, ids: bytes) -> None:
        """Record a common event: its text and its token ids."""
        self.begun = True
        if text:
            if self._textless:
                self._keep_textless()
            self._ids += ids + b","
            self._last = ids
            self.texts += 1
        else:
            self._textless.append(ids)

    def add_choice(self, choice: Choice) -> bool:
        """Record one choice of any event. True if the event has nothing but its token ids."""
        if choice.opens:
            self.roles += 1
            return False
        delta = choice.delta
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
        ids = joined(choice.token_ids) if choice.token_ids else b""
        if ids:
            self._textless.append(ids)
        if text or choice.finish_reason is not None:
            self._keep_textless()
            self._last = ids
        self.texts += bool(text)
        self.finish_reason = choice.finish_reason or self.finish_reason
        return False

    def add_prompt(self, chunk: Chunk) -> None:
        """Record the prompt's token ids, which the first event carries."""
        ids = chunk.prompt_token_ids
        for choice in chunk.choices:
            ids = choice.prompt_token_ids if ids is None else ids
        if ids is not None and self.prompt is None:
            self.prompt = joined(ids)

    def correct(self, prompt: list[int]) -> int:
        """Take the next engine's prompt for what was kept; return how many tokens were kept.

        A reader of an answer that is over does not know how `settle` decided.
        """
        kept = prompt[self.prompt_tokens :]
        self._ids = bytearray(joined(kept) + b"," if kept else b"")
        return len(kept)

    def counts(self, made: int) -> dict[str, int]:
        """Return the counts of a usage in which the answer has `made` tokens."""
        prompt = self.prompt_tokens
        return dict(zip(COUNTS, (prompt, prompt + made, made), strict=True))

    def _keep_textless(self) -> None:
        for ids in self._textless:
            self._ids += ids + b","
        self._textless.clear()
