"""The paths of a simulated engine whose model hears: transcriptions and translations."""

from __future__ import annotations

import time
from functools import partial

from nebula.engines.simulated_answers import Answer, tokens_of
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_forms import read_form
from nebula.engines.simulated_generate_routes import AnswerSender
from nebula.engines.simulated_http import Exchange, Routes
from nebula.engines.simulated_speech import (
    SpeechAnswer,
    SpeechTask,
    seconds_of,
    speech_request,
    transcript,
)


class SpeechRoutes:
    """The speech paths of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sender = AnswerSender(core)

    def routes(self) -> Routes:
        """Return what vLLM registers for a model that transcribes."""
        return {
            "/v1/audio/transcriptions": {"POST": partial(self._transcribe, "transcribe")},
            "/v1/audio/translations": {"POST": partial(self._transcribe, "translate")},
        }

    async def _transcribe(self, task: SpeechTask, exchange: Exchange) -> None:
        body = await exchange.read_bytes()
        fields = read_form(exchange.headers.get(b"content-type", b""), body)
        request, sound = speech_request(fields)
        model, _ = self._core.resolve(request.model)
        request.check(model)
        told = self._core.obey(request.prompt.split())
        prompt = transcript(task, sound)
        count, finish_reason = request.length(self._core.settings.tokens)
        generated = Answer(
            chat=False,
            id=self._core.answer_id(exchange, f"{task}-"),
            created=int(time.time()),
            model=model,
            tokens=tokens_of(prompt, count),
            finish_reason=finish_reason,
            prompt_tokens=prompt.tokens,
        )
        answer = SpeechAnswer(
            task=task, generated=generated, request=request, seconds=seconds_of(sound)
        )
        await self._sender.send(exchange, answer, generated, stream=request.streams(), told=told)
