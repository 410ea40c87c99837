"""The paths of a simulated engine whose model makes words, streamed or not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from nebula.engines.simulated_adapters import Adapter
from nebula.engines.simulated_answers import Answer, batch_body, fitting, tokens_of
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_http import Exchange, Refusal, Routes
from nebula.engines.simulated_messages import (
    CountTokensRequest,
    MessageAnswer,
    MessagesRequest,
    count_body,
    error_body,
)
from nebula.engines.simulated_orders import Orders
from nebula.engines.simulated_requests import (
    BatchRequest,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    ids_of_chat,
    prompt_of,
)
from nebula.engines.simulated_responses import ResponseAnswer, ResponsesRequest, not_found
from nebula.engines.simulated_scoring import ScoringRequest, scoring_body
from nebula.engines.simulated_tokens import Prompt

T = TypeVar("T")

# Number of tokens that are sent before other tasks run: otherwise a long answer without delays
# would block the event loop, and never notice that its client is gone.
_BREATH = 32

RESPONSES = "/v1/responses"

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_batch = msgspec.json.Decoder(BatchRequest)
_responses = msgspec.json.Decoder(ResponsesRequest)
_messages = msgspec.json.Decoder(MessagesRequest)
_count = msgspec.json.Decoder(CountTokensRequest)
_scoring = msgspec.json.Decoder(ScoringRequest)


class StreamableAnswer(Protocol):
    """An answer that can be sent in one piece or as a stream of events."""

    def body(self) -> bytes:
        """The answer in one piece."""

    def before(self) -> Sequence[bytes]:
        """The events that a stream begins with, before the request has its turn."""

    def opening(self) -> Sequence[bytes]:
        """The events before the first token."""

    def events(self) -> Iterator[bytes]:
        """One event for each token."""

    def closing(self) -> Sequence[bytes]:
        """The events after the last token."""

    def failing(self, failure: Refusal) -> Sequence[bytes]:
        """What a stream ends with that fails in the middle."""


class AnswerSender:
    """Sends answers at the pace of the engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def send(
        self,
        exchange: Exchange,
        answer: StreamableAnswer,
        generated: Answer,
        *,
        stream: bool,
        told: Orders | None,
    ) -> None:
        """Send an answer; `generated`: its tokens, `told`: what its prompt orders."""
        work = self._whole
        if stream:
            work = self._broken if told is not None and told.breaks else self._streamed
        await self._core.run(exchange, work, (answer, generated), stream=stream)

    async def _whole(self, exchange: Exchange, job: tuple[StreamableAnswer, Answer]) -> None:
        answer, generated = job
        core, rest = self._core, len(generated.tokens) - 1
        begun = exchange.begun
        if core.settings.crowding:
            await core.pace(exchange, core.first_token)
            for _ in range(rest):
                await core.pace(exchange, core.next_token)
        elif (seconds := core.first_token + core.token * rest) or core.stalled:
            await core.pace(exchange, seconds)
        core.metrics.generated += rest + 1
        now = time.monotonic()
        self._count(generated, min(core.first_token, now - begun), now - begun)
        await exchange.reply(answer.body())

    def _count(self, generated: Answer, first: float, whole: float) -> None:
        """Count an answer: how long its first token took, and all of it."""
        self._core.metrics.answered(
            generated.prompt_tokens,
            len(generated.tokens),
            generated.finish_reason,
            first,
            whole - first,
        )

    async def _streamed(self, exchange: Exchange, job: tuple[StreamableAnswer, Answer]) -> None:
        answer, generated = job
        core, seconds = self._core, self._core.first_token
        for event in answer.before():
            await exchange.part(event)
        interval, crowding = generated.interval, core.crowding
        alone = core.token * interval
        first, begun = 0.0, exchange.begun
        whole, counted = len(generated.tokens), 0
        for number, event in enumerate(answer.events()):
            if seconds or core.stalled or number % _BREATH == _BREATH - 1:
                sent = min(whole, 1 + (number - 1) * interval) if number else 0
                core.metrics.generated += sent - counted
                counted = sent
                await core.pace(exchange, seconds)
            if number == 0:
                first = time.monotonic() - begun
                for opening in answer.opening():
                    await exchange.part(opening)
            await exchange.part(event)
            seconds = core.next_token * interval if crowding else alone
        core.metrics.generated += whole - counted
        self._count(generated, first, time.monotonic() - begun)
        for event in answer.closing():
            await exchange.part(event)
        await exchange.part(b"", more=False)

    async def _broken(self, exchange: Exchange, job: tuple[StreamableAnswer, Answer]) -> None:
        """Begin a stream and break it off as vLLM does."""
        answer, _ = job
        for event in (*answer.before(), *answer.opening(), next(answer.events())):
            await exchange.part(event)
        failure = Refusal(500, "The prompt ordered it.", "InternalServerError")
        for event in answer.failing(failure):
            await exchange.part(event)
        await exchange.part(b"", more=False)


class GenerateRoutes:
    """The generating paths of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settings = core.settings
        self._sender = AnswerSender(core)

    def routes(self) -> Routes:
        """Return what vLLM registers for a model that generates (``generate/api_router.py``)."""
        return {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/chat/completions/batch": {"POST": self._batch},
            "/v1/completions": {"POST": self._complete},
            RESPONSES: {"POST": self._respond},
            f"{RESPONSES}/{{response_id}}": {"GET": self._retrieve},
            f"{RESPONSES}/{{response_id}}/cancel": {"POST": self._cancel},
            "/v1/messages": {"POST": self._message},
            "/v1/messages/count_tokens": {"POST": self._count},
            "/generative_scoring": {"POST": self._score},
        }

    # Chats and completions

    async def _chat(self, exchange: Exchange) -> None:
        request = await exchange.read(_chat)
        await self._generate(exchange, request, chat=True)

    async def _complete(self, exchange: Exchange) -> None:
        request = await exchange.read(_completion)
        await self._generate(exchange, request, chat=False)

    async def _generate(
        self, exchange: Exchange, request: ChatRequest | CompletionRequest, *, chat: bool
    ) -> None:
        model, adapter = self._core.resolve(request.model)
        prompt = request.read()
        told = self._core.obey(prompt.words)
        count, finish_reason = request.length(self._settings.tokens - prompt.said)
        options = request.stream_options
        answer = Answer(
            chat=chat,
            id=self._core.answer_id(exchange, "chatcmpl-" if chat else "cmpl-"),
            created=int(time.time()),
            model=model,
            tokens=tokens_of(prompt, count, self._says(adapter, prompt)),
            finish_reason=finish_reason,
            prompt_tokens=fitting(prompt.tokens, self._settings.max_model_len),
            said=prompt.said,
            prompt_ids=request.prompt_ids() if request.return_token_ids else None,
            interval=request.stream_interval or 1,
            include_usage=options is not None and bool(options.include_usage),
        )
        stream = request.streams()
        await self._sender.send(exchange, answer, answer, stream=stream, told=told)

    def _says(self, adapter: Adapter | None, prompt: Prompt) -> str | None:
        if adapter is None:
            return None
        return self._core.adapters.says(adapter, " ".join(prompt.words))

    def _answer(
        self, request: GenerationRequest, prompt: Prompt, answer_id: str
    ) -> tuple[Answer, Orders | None]:
        """Return what a chat is answered with, and what its prompt orders. Raise Refusal."""
        model, adapter = self._core.resolve(request.model)
        told = self._core.obey(prompt.words)
        read = fitting(prompt.tokens, self._settings.max_model_len)
        count, finish_reason = request.length(self._settings.tokens)
        answer = Answer(
            chat=True,
            id=answer_id,
            created=int(time.time()),
            model=model,
            tokens=tokens_of(prompt, count, self._says(adapter, prompt)),
            finish_reason=finish_reason,
            prompt_tokens=read,
        )
        return answer, told

    async def _batch(self, exchange: Exchange) -> None:
        request = await exchange.read(_batch)
        request.check()
        self._core.resolve(request.model)
        answer_id = self._core.answer_id(exchange, "chatcmpl-")
        answers = []
        for messages in request.messages:
            answer, _ = self._answer(request, prompt_of(messages), answer_id)
            ids = ids_of_chat(messages) if request.return_token_ids else None
            answers.append(msgspec.structs.replace(answer, prompt_ids=ids))
        await self._core.run(exchange, self._batched, answers)

    async def _batched(self, exchange: Exchange, answers: list[Answer]) -> None:
        longest = max(len(answer.tokens) for answer in answers)
        seconds = self._core.first_token + self._core.token * (longest - 1)
        if seconds or self._core.stalled:
            await self._core.pace(exchange, seconds)
        await exchange.reply(batch_body(answers))

    # OpenAI's responses

    async def _respond(self, exchange: Exchange) -> None:
        request = await exchange.read(_responses)
        request.check()
        self._core.resolve(request.model)
        request.check_store()
        messages = request.chat()
        prompt = prompt_of(messages)
        generated, told = self._answer(request, prompt, request.request_id or _fresh("resp_"))
        room = self._settings.max_model_len - prompt.tokens
        answer = ResponseAnswer(
            generated=generated,
            request=request,
            item=_fresh("msg_"),
            limit=room if request.limit() is None else min(room, request.limit() or room),
            prompt_ids=ids_of_chat(messages),
        )
        await self._sender.send(exchange, answer, generated, stream=request.streams(), told=told)

    async def _retrieve(self, exchange: Exchange) -> None:
        raise not_found(exchange.path.removeprefix(f"{RESPONSES}/"))

    async def _cancel(self, exchange: Exchange) -> None:
        raise not_found(exchange.path.removeprefix(f"{RESPONSES}/").removesuffix("/cancel"))

    # Anthropic's messages

    async def _message(self, exchange: Exchange) -> None:
        request = await exchange.read(_messages)
        request.check()
        stream = request.streams()
        answer_id = self._core.answer_id(exchange, "chatcmpl-")

        def answered() -> tuple[Answer, Orders | None]:
            self._core.resolve(request.model)
            return self._answer(request, prompt_of(request.chat()), answer_id)

        found = await _refusing(exchange, answered)
        if found is not None:
            generated, told = found
            await self._sender.send(
                exchange, MessageAnswer(generated), generated, stream=stream, told=told
            )

    async def _count(self, exchange: Exchange) -> None:
        request = await exchange.read(_count)
        request.check()

        def counted() -> int:
            self._core.resolve(request.model)
            prompt = prompt_of(request.chat())
            return fitting(prompt.tokens, self._settings.max_model_len)

        tokens = await _refusing(exchange, counted)
        if tokens is not None:
            await exchange.reply(count_body(tokens))

    # Scores

    async def _score(self, exchange: Exchange) -> None:
        request = await exchange.read(_scoring)
        model, _ = self._core.resolve(request.model)
        request.check()
        self._core.obey(request.words())
        answer_id = self._core.answer_id(exchange, "generative-scoring-")

        async def work(exchange: Exchange, request: ScoringRequest) -> None:
            await self._core.prefill(exchange)
            await exchange.reply(scoring_body(request, answer_id, int(time.time()), model))

        await self._core.run(exchange, work, request)


async def _refusing(exchange: Exchange, work: Callable[[], T]) -> T | None:
    """Return what comes of the work, or refuse it in Anthropic's shape and return None."""
    try:
        return work()
    except Refusal as refusal:
        body = error_body(refusal)
        await exchange.reply(body, refusal.status, retry_after=refusal.retry_after)
        return None


def _fresh(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:16]
