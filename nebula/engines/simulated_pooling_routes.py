"""The paths of a simulated engine whose model pools: embeddings, classes and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from nebula.engines.simulated_answers import fitting
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_http import Exchange, Routes
from nebula.engines.simulated_scores import (
    AnswerHead,
    ClassifyRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
    classify_body,
    pooling_body,
    rerank_body,
    score_body,
)
from nebula.engines.simulated_settings import Settings
from nebula.engines.simulated_vectors import (
    CohereRequest,
    EmbeddingRequest,
    cohere_body,
    embeddings_body,
)


class Named(Protocol):
    """A request that may name a model."""

    @property
    def model(self) -> str | None:
        """The model's name."""


R = TypeVar("R", bound=Named)

_embedding = msgspec.json.Decoder(EmbeddingRequest)
_cohere = msgspec.json.Decoder(CohereRequest)
_pooling = msgspec.json.Decoder(PoolingRequest)
_classify = msgspec.json.Decoder(ClassifyRequest)
_score = msgspec.json.Decoder(ScoreRequest)
_rerank = msgspec.json.Decoder(RerankRequest)


class PoolingRoutes:
    """The pooling paths of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settings = core.settings

    def routes(self) -> Routes:
        """Return what vLLM registers (``pooling/factories.py``) for the tasks of its model."""
        tasks = self._settings.supported_tasks
        routes: Routes = {"/pooling": {"POST": self._pool}}
        if "classify" in tasks:
            routes["/classify"] = {"POST": self._classify}
        if "embed" in tasks:
            routes["/v1/embeddings"] = {"POST": self._embed}
            routes["/v2/embed"] = {"POST": self._embed_for_cohere}
        if self._settings.scores:
            for path in ("/score", "/v1/score"):
                routes[path] = {"POST": self._score}
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                routes[path] = {"POST": self._rerank}
        return routes

    async def _embed(self, exchange: Exchange) -> None:
        request = await exchange.read(_embedding)
        head = self._begin(exchange, request, "embd-", request.texts())
        dimensions = self._settings.dimensions

        async def work(exchange: Exchange, request: EmbeddingRequest) -> None:
            await self._core.prefill(exchange)
            body = embeddings_body(request, head.id, head.created, head.model, dimensions)
            await exchange.reply(body)

        await self._core.run(exchange, work, request)

    async def _embed_for_cohere(self, exchange: Exchange) -> None:
        request = await exchange.read(_cohere)
        head = self._begin(exchange, request, "embd-", request.given())
        request.check(head.model)

        async def work(exchange: Exchange, request: CohereRequest) -> None:
            await self._core.prefill(exchange)
            await exchange.reply(cohere_body(request, head.id, self._settings.dimensions))

        await self._core.run(exchange, work, request)

    async def _pool(self, exchange: Exchange) -> None:
        request = await exchange.read(_pooling)
        request.check(self._settings)
        head = self._begin(exchange, request, "pooling-", request.texts())

        async def work(exchange: Exchange, request: PoolingRequest) -> None:
            await self._core.prefill(exchange)
            body, metadata = pooling_body(request, head, self._settings)
            if request.encoding_format in ("bytes", "bytes_only"):
                more = [(b"metadata", metadata)] if metadata else []
                await exchange.start(200, b"application/octet-stream", more=more)
                await exchange.part(body, more=False)
            else:
                await exchange.reply(body)

        await self._core.run(exchange, work, request)

    async def _classify(self, exchange: Exchange) -> None:
        request = await exchange.read(_classify)
        await self._answer(exchange, request, "classify-", request.texts(), classify_body)

    async def _score(self, exchange: Exchange) -> None:
        request = await exchange.read(_score)
        texts = [" ".join(pair) for pair in request.pairs()]
        await self._answer(exchange, request, "score-", texts, score_body)

    async def _rerank(self, exchange: Exchange) -> None:
        request = await exchange.read(_rerank)
        texts = [" ".join(pair) for pair in request.pairs()]
        await self._answer(exchange, request, "score-", texts, rerank_body)

    async def _answer(
        self,
        exchange: Exchange,
        request: R,
        prefix: str,
        texts: Sequence[str],
        body: Callable[[R, AnswerHead, Settings], bytes],
    ) -> None:
        head = self._begin(exchange, request, prefix, texts)

        async def work(exchange: Exchange, request: R) -> None:
            await self._core.prefill(exchange)
            await exchange.reply(body(request, head, self._settings))

        await self._core.run(exchange, work, request)

    def _begin(
        self, exchange: Exchange, request: Named, prefix: str, texts: Sequence[str]
    ) -> AnswerHead:
        """Name the answer, once the request is one that the engine takes. Raise Refusal."""
        model, _ = self._core.resolve(request.model, aliases=False)
        self._core.obey(word for text in texts for word in text.split())
        for text in texts:
            fitting(len(text.split()), self._settings.max_model_len, 0)
        return AnswerHead(self._core.answer_id(exchange, prefix), int(time.time()), model)
