"""Whether and how a streamed answer goes on at another engine after its own has died. Pure.

It goes on from token ids, since going on from text is not exact: the next engine is asked for a
completion of the prompt's ids and of those whose text the client already has. `with_token_ids`
makes the first engine give the ids, `plan` decides what the next one is asked; ``stream`` follows
the events in between and afterwards.

Only what comes out as if nothing had happened is gone on with. What counts the tokens of its own
answer, or keeps a state between them that no token id shows, does not.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from nebula.events.reading import UNREADABLE
from nebula.openai.stream import CHAT, COMPLETIONS, Form, StreamTranscript

_fields = msgspec.json.Decoder(dict[str, Raw])

_NONE = frozenset({b"null"})
_OFF = _NONE | {b"false"}
_ON = ("true", "t", "yes", "y", "on", "1")
_ZERO = _NONE | {b"0", b"0.0", b"-0.0", b"-0"}
_EMPTY = _NONE | {b"[]", b'""', b"{}"}

_CONSTRAINED = "the form of the answer is constrained"
_LOGPROBS = "log probabilities are asked for"

_OBSTACLES: dict[str, tuple[frozenset[bytes], str]] = {
    "n": (_NONE | {b"1"}, "more than one choice is asked for"),
    "best_of": (_NONE | {b"1"}, "more than one choice is asked for"),
    "use_beam_search": (_OFF, "beam search keeps more than one answer in view"),
    "functions": (_EMPTY, "tools may be called"),
    "response_format": (_NONE | {b'{"type":"text"}', b'{"type": "text"}'}, _CONSTRAINED),
    "structured_outputs": (_NONE, _CONSTRAINED),
    "guided_json": (_NONE, _CONSTRAINED),
    "guided_regex": (_NONE, _CONSTRAINED),
    "guided_choice": (_NONE, _CONSTRAINED),
    "guided_grammar": (_NONE, _CONSTRAINED),
    "structural_tag": (_NONE, _CONSTRAINED),
    "logprobs": (_OFF, _LOGPROBS),
    "top_logprobs": (_NONE | {b"0"}, _LOGPROBS),
    "prompt_logprobs": (_NONE, _LOGPROBS),
    "logprob_token_ids": (_EMPTY, _LOGPROBS),
    "echo": (_OFF, "the prompt is to be echoed"),
    "stop": (_EMPTY, "stop strings make the engine hold text back"),
    "presence_penalty": (_ZERO, "presence_penalty counts the answer's own tokens only"),
    "frequency_penalty": (_ZERO, "frequency_penalty counts the answer's own tokens only"),
    "bad_words": (_EMPTY, "bad_words looks at the answer's own tokens only"),
    "repetition_detection": (_NONE, "repetition_detection looks at the answer's own tokens only"),
    "thinking_token_budget": (
        _NONE | {b"-1"},
        "thinking_token_budget counts the answer's own tokens only",
    ),
    "include_reasoning": (_NONE | {b"true"}, "reasoning is to be left out of the answer"),
    "truncate_prompt_tokens": (_NONE, "the prompt is truncated"),
    "suffix": (_EMPTY, "the answer is to fit before a suffix"),
    "prompt_embeds": (_EMPTY, "the prompt has no token ids"),
    "watermarking": (_OFF, "the answer is watermarked"),
    "logits_processors": (_EMPTY, "extensions of the engine take part"),
    "vllm_xargs": (_EMPTY, "extensions of the engine take part"),
    "kv_transfer_params": (_EMPTY, "the prompt's state comes from another engine"),
    "ec_transfer_params": (_EMPTY, "the prompt's state comes from another engine"),
    "modalities": (_EMPTY | {b'["text"]'}, "the answer is more than text"),
    "audio": (_NONE, "the answer is more than text"),
}
"""What can't be gone on with, unless it has one of these values; and why."""

_CHAT_ONLY = frozenset(
    {
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "function_call",
        "max_completion_tokens",
        "reasoning_effort",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "return_prompt_text",
    }
)
_SETTLED = frozenset(
    {"max_tokens", "min_tokens", "seed", "prompt", "stream", "return_token_ids"}
    | {"request_id", "add_special_tokens", "truncation_side"}
)
"""What a continuation says itself, or what the prompt's token ids have settled."""

DETOKENIZE = "/detokenize"

_TEXTS = ("text", "input_text", "output_text", "refusal")
"""Types of a content's parts that are nothing but text."""

COMPLETION_TOKENS = 16
"""What vLLM makes of a completion without max_tokens; a chat then has all the context."""


class _Message(Struct):
    content: Any = None


class _Detokenized(Struct):
    prompt: str


class _StreamOptions(Struct):
    include_usage: bool | None = False


class PreparedBody(Struct, frozen=True):
    """What to send to the engine in the client's place, and how to follow the answer."""

    body: bytes
    tracked: bool = False
    shown: bool = False

    def progress(self, path: str) -> StreamTranscript:
        """Begin to follow the answer."""
        return StreamTranscript(path, tracked=self.tracked, shown=self.shown)


class Limits(Struct, frozen=True):
    """How long an engine lets an answer be.

    `context`: prompt and answer together (``max_model_len``). `default`: where the client gives no
    limit; `most`: whatever the client says.
    """

    context: int
    default: int | None = None
    most: int | None = None


class Continuation(Struct, frozen=True):
    """What to ask another engine. Tell the progress (`resume`) before its answer comes."""

    path: str
    body: bytes
    form: Form


class Detokenize(Struct, frozen=True):
    """What to ask any engine of the model first. Give its answer to `settle`, then plan again.

    Going on inside a character is not exact: vLLM then writes the text of the whole prompt too.
    """

    path: str
    body: bytes


class Finish(Struct, frozen=True):
    """No token is missing: the client needs only these bytes."""

    body: bytes


class CantContinue(Struct, frozen=True):
    """Why the answer ends here."""

    reason: str


def streams(said: bytes) -> bool:
    """Return whether an engine takes the JSON value of `stream` as true.

    vLLM reads it with pydantic, which takes more than `true` for that:
    https://docs.pydantic.dev/latest/concepts/conversion_table/
    """
    if said == b"true" or not said or said in _OFF:
        return said == b"true"
    try:
        value = msgspec.json.decode(said)
    except UNREADABLE:
        return False
    return value.lower() in _ON if isinstance(value, str) else value == 1


def with_token_ids(path: str, body: bytes) -> PreparedBody:
    """Ask for token ids too, where that changes nothing else and can be of use."""
    if path not in (CHAT, COMPLETIONS):
        return PreparedBody(body)
    try:
        fields = _fields.decode(body)
    except UNREADABLE:
        return PreparedBody(body)
    if not streams(_said(fields, "stream")) or _obstacle(path, fields):
        return PreparedBody(body)
    if "return_token_ids" not in fields:
        at = body.index(b"{") + 1
        return PreparedBody(body[:at] + b'"return_token_ids":true,' + body[at:], tracked=True)
    if _said(fields, "return_token_ids") not in _OFF:
        return PreparedBody(body, tracked=True, shown=True)
    return PreparedBody(_object({**fields, "return_token_ids": Raw(b"true")}), tracked=True)


def settle(progress: StreamTranscript, answer: bytes) -> None:
    """Take an engine's answer to `Detokenize`; any other than that it can't be gone on with."""
    try:
        progress.settle(msgspec.json.decode(answer, type=_Detokenized).prompt)
    except UNREADABLE:
        progress.obstacle = "no engine says what text the last token ids are"


def plan(
    path: str, body: bytes, progress: StreamTranscript, limits: Limits | None = None
) -> Continuation | Detokenize | Finish | CantContinue:
    """Decide how the answer to the client's `body` goes on after what `progress` has seen."""
    try:
        fields = _fields.decode(body)
    except UNREADABLE:
        return CantContinue("the request is no JSON object")
    usage = _usage_wanted(fields)
    if progress.done or (progress.finish_reason and progress.tracked):
        return Finish(progress.closing(progress.finish_reason, usage))
    if not progress.begun:
        return Continuation(path, with_token_ids(path, body).body, "again")
    reason = progress.obstacle or _obstacle(path, fields) or _prompt_obstacle(path, fields)
    if reason:
        return CantContinue(reason)
    if not progress.tracked or progress.prompt is None:
        return CantContinue("the engine did not tell the prompt's token ids")
    if progress.doubtful:
        tokens = {"tokens": Raw(b"[" + progress.doubtful + b"]")}
        model = {key: fields[key] for key in ("model",) if key in fields}
        return Detokenize(DETOKENIZE, _object(model | tokens))
    if progress.shown and progress.textless:
        return CantContinue("it was cut inside a character whose token ids the client has")
    made = progress.completion_tokens
    rest = _rest(path, fields, progress, limits)
    if isinstance(rest, CantContinue):
        return rest
    if rest <= 0:
        return Finish(progress.closing("length", usage))
    return Continuation(COMPLETIONS, _rest_body(path, fields, progress, rest, made), "rest")


def _rest_body(
    path: str, fields: Mapping[str, Raw], progress: StreamTranscript, rest: int, made: int
) -> bytes:
    dropped = _SETTLED | _OBSTACLES.keys() | (_CHAT_ONLY if path == CHAT else frozenset())
    kept = {key: value for key, value in fields.items() if key not in dropped}
    assert progress.prompt is not None
    ids = b",".join(part for part in (progress.prompt, progress.ids) if part)
    kept["prompt"] = Raw(b"[" + ids + b"]")
    kept["max_tokens"] = Raw(b"%d" % rest)
    least = _whole(_said(fields, "min_tokens"))
    if least:
        kept["min_tokens"] = Raw(b"%d" % max(0, least - made))
    seed = _whole(_said(fields, "seed"))
    if seed is not None:
        # The same seed would draw the same random numbers once more, and favour the same tokens.
        kept["seed"] = Raw(b"%d" % ((seed + made) % 2**63))
    kept["stream"] = kept["return_token_ids"] = Raw(b"true")
    return _object(kept)


def _rest(
    path: str, fields: Mapping[str, Raw], progress: StreamTranscript, limits: Limits | None
) -> int | CantContinue:
    """Return how many tokens are missing at most."""
    limit = None
    for key in ("max_completion_tokens", "max_tokens") if path == CHAT else ("max_tokens",):
        if limit is None and (said := _said(fields, key)) != b"null":
            limit = _whole(said)
            if limit is None:
                return CantContinue(f"{key} is no whole number")
    if limit is None and path == COMPLETIONS:
        limit = COMPLETION_TOKENS
    if limits is None:
        if limit is None:
            return CantContinue("no max_tokens is given, and the engine's own limit is not known")
        return limit - progress.completion_tokens
    if limit is None:
        limit = limits.context if limits.default is None else limits.default
    if limits.most is not None:
        limit = min(limit, limits.most)
    return min(limit, limits.context - progress.prompt_tokens) - progress.completion_tokens


def _obstacle(path: str, fields: Mapping[str, Raw]) -> str:
    """Return what in the request's parameters can't be gone on with, if anything."""
    for key in fields.keys() & _OBSTACLES.keys():
        harmless, reason = _OBSTACLES[key]
        value = _said(fields, key)
        if value not in harmless and msgspec.json.format(value, indent=-1) not in harmless:
            return reason
    tools = path == CHAT and _said(fields, "tools") not in _EMPTY
    return "tools may be called" if tools and _said(fields, "tool_choice") != b'"none"' else ""


def _prompt_obstacle(path: str, fields: Mapping[str, Raw]) -> str:
    """Return what in the prompt can't be gone on with, if anything."""
    try:
        if path == CHAT:
            messages = msgspec.json.decode(_said(fields, "messages"), type=list[_Message])
            plain = all(_plain(message.content) for message in messages)
            return "" if plain else "the prompt is more than text"
        prompt = msgspec.json.decode(_said(fields, "prompt"), type=str | list[Any])
    except UNREADABLE:
        return "the prompt has a form that is not understood"
    if isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        return "there is more than one prompt"
    return ""


def _plain(content: object) -> bool:
    if not isinstance(content, list):
        return True
    return all(
        isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") in _TEXTS)
        for part in content
    )


def _usage_wanted(fields: Mapping[str, Raw]) -> bool:
    try:
        options = msgspec.json.decode(_said(fields, "stream_options"), type=_StreamOptions | None)
    except UNREADABLE:
        return False
    return options is not None and bool(options.include_usage)


def _said(fields: Mapping[str, Raw], key: str) -> bytes:
    value = fields.get(key)
    return b"null" if value is None else bytes(value)


def _whole(said: bytes) -> int | None:
    try:
        return msgspec.json.decode(said, type=int | None, strict=False)
    except UNREADABLE:
        return None


def _object(fields: Mapping[str, Raw]) -> bytes:
    pairs = (msgspec.json.encode(key) + b":" + bytes(value) for key, value in fields.items())
    return b"{" + b",".join(pairs) + b"}"
