"""Whether and how a streamed answer continues at another engine after its own has died. Pure.

It continues from token ids, because continuing from text is not exact: the next engine is asked for
a completion of the prompt's ids and of those whose text the client already has. `with_token_ids`
makes the first engine send the ids, `plan` decides what the next engine is asked, and ``stream``
rewrites the events in between and afterwards.

An answer is continued only if the result is the same as without the failure. That excludes requests
that count the tokens of their own answer, or keep a state that no token id shows.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from nebula.events.inference import Form
from nebula.events.reading import UNREADABLE
from nebula.openai.chunks import CHAT, COMPLETIONS
from nebula.openai.stream import StreamRewriter
from nebula.openai.transcript import StreamTranscript

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
"""Parameters that can't be continued, the values with which they can, and the reason."""

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
"""Parameters that a continuation sets itself, or that the prompt's token ids have settled."""

DETOKENIZE = "/detokenize"

_TEXTS = ("text", "input_text", "output_text", "refusal")
"""Types of the parts of a message that are plain text."""

COMPLETION_TOKENS = 16
"""vLLM's `max_tokens` for a completion that sets none; a chat may then fill the context."""


class _Message(Struct):
    content: Any = None


class _Detokenized(Struct):
    prompt: str


class _StreamOptions(Struct):
    include_usage: bool | None = False


class PreparedBody(Struct, frozen=True):
    """The body to send to the engine in place of the client's, and how to pass on the answer.

    `counted`: the engine is asked for its usage, which the client does not want.
    """

    body: bytes
    tracked: bool = False
    shown: bool = False
    counted: bool = False

    def rewriter(self, path: str) -> StreamRewriter:
        """Return what passes the answer on."""
        return StreamRewriter(path, tracked=self.tracked, shown=self.shown, counted=self.counted)


class Limits(Struct, frozen=True):
    """An engine's limits on an answer, in tokens.

    `context`: prompt and answer together (``max_model_len``). `default`: if the client sets no
    limit. `most`: whatever limit the client sets.
    """

    context: int
    default: int | None = None
    most: int | None = None


class Continuation(Struct, frozen=True):
    """What to ask another engine. Call the rewriter's `resume` with `form` before it answers."""

    path: str
    body: bytes
    form: Form


class Detokenize(Struct, frozen=True):
    """What to ask any engine of the model first. Pass its answer to `settle`, then plan again.

    An answer can't continue inside a character: vLLM would then write the whole prompt's text too.
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
    """Return a body that asks for token ids too, if they can be used and change nothing else."""
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


def with_usage(path: str, body: bytes) -> PreparedBody:
    """Return a body that asks for the engine's usage at the end, for a stream without token ids."""
    if path not in (CHAT, COMPLETIONS):
        return PreparedBody(body)
    try:
        fields = _fields.decode(body)
        options = msgspec.json.decode(_said(fields, "stream_options"), type=dict[str, Raw] | None)
    except UNREADABLE:
        return PreparedBody(body)  # the engine refuses it
    if not streams(_said(fields, "stream")) or _said(options or {}, "include_usage") not in _OFF:
        return PreparedBody(body)
    if "stream_options" not in fields:
        at = body.index(b"{") + 1
        asked = b'"stream_options":{"include_usage":true},'
        return PreparedBody(body[:at] + asked + body[at:], counted=True)
    more = _object({**(options or {}), "include_usage": Raw(b"true")})
    return PreparedBody(_object({**fields, "stream_options": Raw(more)}), counted=True)


def settle(transcript: StreamTranscript, answer: bytes) -> None:
    """Record an engine's answer to `Detokenize`; if it is not valid, the stream can't continue."""
    try:
        transcript.settle(msgspec.json.decode(answer, type=_Detokenized).prompt)
    except UNREADABLE:
        transcript.obstacle = "no engine says what text the last token ids are"


def plan(
    path: str, body: bytes, stream: StreamRewriter, limits: Limits | None = None
) -> Continuation | Detokenize | Finish | CantContinue:
    """Decide how the answer to the client's `body` continues after what `stream` has passed on."""
    got = stream.transcript
    try:
        fields = _fields.decode(body)
    except UNREADABLE:
        return CantContinue("the request is not a JSON object")
    usage = _usage_wanted(fields) and not stream.counted
    if got.done or (got.finish_reason and stream.tracked):
        return Finish(stream.closing(got.finish_reason, usage))
    if not got.begun:
        return Continuation(path, with_token_ids(path, body).body, Form.RESTARTED)
    reason = got.obstacle or _obstacle(path, fields) or _prompt_obstacle(path, fields)
    if reason:
        return CantContinue(reason)
    if not stream.tracked or got.prompt is None:
        return CantContinue("the engine did not tell the prompt's token ids")
    if got.possibly_incomplete_ids:
        tokens = {"tokens": Raw(b"[" + got.possibly_incomplete_ids + b"]")}
        model = {key: fields[key] for key in ("model",) if key in fields}
        return Detokenize(DETOKENIZE, _object(model | tokens))
    if stream.shown and got.textless:
        return CantContinue("it was cut inside a character whose token ids the client has")
    rest = _rest(path, fields, got, limits)
    if isinstance(rest, CantContinue):
        return rest
    if rest <= 0:
        return Finish(stream.closing("length", usage))
    return Continuation(COMPLETIONS, _rest_body(path, fields, got, rest), Form.CONTINUED)


def _rest_body(path: str, fields: Mapping[str, Raw], got: StreamTranscript, rest: int) -> bytes:
    dropped = _SETTLED | _OBSTACLES.keys() | (_CHAT_ONLY if path == CHAT else frozenset())
    kept = {key: value for key, value in fields.items() if key not in dropped}
    assert got.prompt is not None
    made = got.completion_tokens
    ids = b",".join(part for part in (got.prompt, got.ids) if part)
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
    path: str, fields: Mapping[str, Raw], got: StreamTranscript, limits: Limits | None
) -> int | CantContinue:
    """Return the largest number of tokens that may still be missing."""
    limit = None
    for key in ("max_completion_tokens", "max_tokens") if path == CHAT else ("max_tokens",):
        if limit is None and (said := _said(fields, key)) != b"null":
            limit = _whole(said)
            if limit is None:
                return CantContinue(f"{key} is not a whole number")
    if limit is None and path == COMPLETIONS:
        limit = COMPLETION_TOKENS
    if limits is None:
        if limit is None:
            return CantContinue("no max_tokens is given, and the engine's own limit is not known")
        return limit - got.completion_tokens
    if limit is None:
        limit = limits.context if limits.default is None else limits.default
    if limits.most is not None:
        limit = min(limit, limits.most)
    return min(limit, limits.context - got.prompt_tokens) - got.completion_tokens


def _obstacle(path: str, fields: Mapping[str, Raw]) -> str:
    """Return why the request's parameters keep its answer from being continued, or ""."""
    for key in fields.keys() & _OBSTACLES.keys():
        harmless, reason = _OBSTACLES[key]
        value = _said(fields, key)
        if value not in harmless and msgspec.json.format(value, indent=-1) not in harmless:
            return reason
    tools = path == CHAT and _said(fields, "tools") not in _EMPTY
    return "tools may be called" if tools and _said(fields, "tool_choice") != b'"none"' else ""


def _prompt_obstacle(path: str, fields: Mapping[str, Raw]) -> str:
    """Return why the prompt keeps its answer from being continued, or ""."""
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
