"""Transcriptions and translations of a simulated engine: words that follow from a file's bytes.

Pure: ids and times come in. The shapes are those of vLLM 0.32
(``vllm/entrypoints/speech_to_text``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from nebula.engines.simulated_answers import DONE, Answer
from nebula.engines.simulated_forms import File
from nebula.engines.simulated_http import Refusal, encode, invalid
from nebula.engines.simulated_requests import GenerationRequest
from nebula.engines.simulated_tokens import Prompt, ids_of

SpeechTask = Literal["transcribe", "translate"]

_BYTES_A_SECOND = 32000  # of sound with 16,000 samples of 16 bits, which every file is taken for
_FORMATS = ("text", "json", "verbose_json", "diarized_json")
_ALL_FORMATS = (*_FORMATS, "srt", "vtt")


class SpeechRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/audio/transcriptions or /v1/audio/translations."""

    language: str | None = None
    prompt: str = ""
    response_format: str = "json"
    temperature: float = 0.0
    stream_include_usage: bool = False

    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_completion_tokens

    def check(self, model: str) -> None:
        """Raise Refusal for a format that vLLM does not make."""
        if self.response_format not in _FORMATS:
            text = "Currently only support response_format: `text`, `json`, `verbose_json` or"
            raise Refusal(400, f"{text} `diarized_json`", "BadRequestError")
        if self.response_format == "diarized_json":
            text = f"Currently do not support diarized_json for {model}"
            raise Refusal(400, text, "BadRequestError")
        if self.response_format == "verbose_json" and self.streams():
            text = "verbose_json format doesn't support streaming case"
            raise Refusal(400, text, "BadRequestError")


def speech_request(fields: Mapping[str, str | File]) -> tuple[SpeechRequest, bytes]:
    """The request that a form is, and its file's bytes. Raise Refusal."""
    file = fields.get("file")
    if file is None:
        raise invalid("body.file", "Field required", "missing")
    if isinstance(file, str):
        text = "Expected 'file' to be a file-like object, not 'str'."
        raise Refusal(422, text)
    given = {name: value for name, value in fields.items() if isinstance(value, str)}
    try:
        request = msgspec.convert(given, SpeechRequest, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("`$.")[2].rstrip("`")
        raise invalid(f"body.{name}", str(error)) from error
    if request.response_format not in _ALL_FORMATS:
        raise invalid("body.response_format", "Input should be a format", "literal_error")
    if request.stream_include_usage and not request.streams():
        text = "Stream options can only be defined when `stream=True`."
        said = f"{text} (parameter=stream_include_usage)"
        raise Refusal(400, said, "BadRequestError", "stream_include_usage")
    if not file.content:
        raise Refusal(400, "Invalid or unsupported audio file.", "BadRequestError")
    return request, file.content


def transcript(task: SpeechTask, sound: bytes) -> Prompt:
    """The words that a sound is taken for: the number of its bytes, and their digest."""
    digest = hashlib.sha256(sound).hexdigest()
    pairs = [digest[at : at + 4] for at in range(0, 16, 4)]
    done = "transcribed" if task == "transcribe" else "translated"
    words = [done, str(len(sound)), "bytes", *pairs]
    return Prompt(words, max(1, math.ceil(len(sound) / _BYTES_A_SECOND)))


class SpeechAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A transcript or a translation, and how the request wants it."""

    task: SpeechTask
    generated: Answer
    request: SpeechRequest
    seconds: float

    def body(self) -> bytes:
        """The answer in one piece; vLLM makes JSON of ``text`` too."""
        text = " ".join(self.generated.tokens)
        if self.request.response_format == "verbose_json":
            return encode(self._verbose(text))
        if self.task == "translate":
            return encode({"text": text})
        usage = {"type": "duration", "seconds": math.ceil(self.seconds)}
        return encode({"text": text, "usage": usage})

    def _verbose(self, text: str) -> dict[str, Any]:
        segment = {
            "id": 0,
            "avg_logprob": -0.1,
            "compression_ratio": 1.0,
            "end": self.seconds,
            "no_speech_prob": None,
            "seek": 0,
            "start": 0.0,
            "temperature": self.request.temperature,
            "text": text,
            "tokens": ids_of(self.generated.tokens),
        }
        language = self.request.language or "en"
        head = {"duration": self.seconds, "language": language, "text": text}
        return {**head, "segments": [segment], "words": None}

    def before(self) -> tuple[bytes, ...]:
        """The events that a stream begins with, before the request has its turn: none."""
        return ()

    def opening(self) -> tuple[bytes, ...]:
        """The events before the first token: none."""
        return ()

    def events(self) -> Iterator[bytes]:
        """One event for each token; the last one says why the answer ends."""
        *others, last = self.generated.tokens or [""]
        space = ""
        for token in others:
            yield self._event([{"delta": {"content": space + token}}])
            space = " "
        end = {"finish_reason": self.generated.finish_reason, "stop_reason": None}
        yield self._event([{"delta": {"content": space + last}, **end}])

    def closing(self) -> tuple[bytes, ...]:
        """The events after the last token: the usage where it was asked for, and the end."""
        if not self.request.stream_include_usage:
            return (DONE,)
        return (self._event([], {"usage": self.generated.usage()}), DONE)

    def failing(self, failure: Refusal) -> tuple[bytes, ...]:
        """What a stream ends with that fails in the middle."""
        return self.generated.failing(failure)

    def _event(self, choices: list[dict[str, Any]], more: Mapping[str, Any] | None = None) -> bytes:
        kind = "transcription" if self.task == "transcribe" else "translation"
        generated = self.generated
        head = {"id": generated.id, "object": f"{kind}.chunk", "created": generated.created}
        data = {**head, "model": generated.model, "choices": choices, **(more or {})}
        return b"data: %b\n\n" % encode(data)


def seconds_of(sound: bytes) -> float:
    """How long a sound is."""
    return len(sound) / _BYTES_A_SECOND
