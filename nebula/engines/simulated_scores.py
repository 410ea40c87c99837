"""What a simulated engine says of texts besides embeddings: pooled data, classes and scores. Pure.

The shapes are those of vLLM 0.32 (``vllm/entrypoints/pooling``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from nebula.engines.simulated_http import Refusal, encode, invalid
from nebula.engines.simulated_requests import Part
from nebula.engines.simulated_settings import Settings
from nebula.engines.simulated_vectors import (
    TextsRequest,
    coded_of,
    length_of,
    packed_of,
    usage_of,
    vector_of,
)

_REMOVED = {
    "score": "`score` task was removed; use `classify` instead.",
    "encode": "`encode` task was removed; use `token_embed` or `token_classify` instead.",
}
_TASKS = ("embed", "classify", "token_embed", "token_classify", "plugin", "embed&token_classify")


class PoolingRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /pooling."""

    task: str | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"
    data: Any = None
    dimensions: int | None = None
    normalize: Any = msgspec.UNSET

    def check(self, settings: Settings) -> None:
        """Raise Refusal for what the engine cannot do."""
        if self.normalize is not msgspec.UNSET:
            text = "Parameter `normalize` was removed; use `use_activation` instead."
            raise _refused(text, "normalize")
        task = self.task or settings.pooling_task
        if task in _REMOVED:
            raise _refused(_REMOVED[task], "task")
        if task not in _TASKS:
            names = ", ".join(f"'{each}'" for each in _TASKS[:-1])
            said = f"Input should be {names} or '{_TASKS[-1]}'"
            raise invalid("body.task", said, "literal_error")
        if self.dimensions is not None:
            raise _refused("dimensions is currently not supported", "dimensions")
        if task == "plugin" or (self.data is not None and self.input is None):
            raise _refused("No IOProcessor plugin installed.", "task")
        supported = list(settings.supported_tasks)
        if task not in supported:
            raise _refused(f"Unsupported task: {task!r} Supported tasks: {supported}", "task")
        if task != settings.pooling_task:
            text = f"Try switching the model's pooling_task via --pooler-config.task {task}."
            raise _refused(text, "task")


class ClassifyRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /classify."""


class Parts(msgspec.Struct, frozen=True):
    """A text in parts, as only a model takes it that sees images too."""

    content: list[Part]


Text = str | Parts


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /score: one text against others, or each against its own, under one of four names."""

    model: str | None = None
    queries: Text | list[Text] | None = None
    documents: Text | list[Text] | None = None
    items: Text | list[Text] | None = None
    data_1: Text | list[Text] | None = None
    data_2: Text | list[Text] | None = None
    text_1: Text | list[Text] | None = None
    text_2: Text | list[Text] | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of texts, each of which gets a score. Raise Refusal."""
        names = (
            (self.queries, self.documents),
            (self.queries, self.items),
            (self.data_1, self.data_2),
            (self.text_1, self.text_2),
        )
        for first, second in names:
            if first is not None and second is not None:
                return pairs_of(first, second)
        raise invalid("body.queries", "Field required", "missing")


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /rerank."""

    query: Text
    documents: Text | list[Text]
    model: str | None = None
    top_n: Annotated[int, msgspec.Meta(ge=0)] = 0

    def pairs(self) -> list[tuple[str, str]]:
        """The query with each document. Raise Refusal."""
        return pairs_of(self.query, self.documents)


def pairs_of(first: Text | list[Text], second: Text | list[Text]) -> list[tuple[str, str]]:
    """The pairs of one text with each of the others, or of each with its own. Raise Refusal."""
    left, right = _texts(first), _texts(second)
    if len(left) > 1 and len(left) != len(right):
        raise Refusal(400, "Input lengths must be either 1:1, 1:N or N:N", "BadRequestError")
    if not left:
        raise Refusal(400, "At least one text element must be given", "BadRequestError")
    if not right:
        raise Refusal(400, "At least one text_pair element must be given", "BadRequestError")
    return list(zip(left * len(right) if len(left) == 1 else left, right, strict=True))


def _texts(value: Text | list[Text]) -> list[str]:
    given = value if isinstance(value, list) else [value]
    if any(isinstance(each, Parts) for each in given):
        raise Refusal(400, "MultiModalParam is not supported for Simulated", "BadRequestError")
    return [each for each in given if isinstance(each, str)]


def _refused(text: str, param: str) -> Refusal:
    return Refusal(400, f"{text} (parameter={param})", "BadRequestError", param)


def probabilities_of(text: str, labels: int) -> list[float]:
    """How probable each label of a text is; a single one has a probability of its own."""
    numbers = [4 * number for number in vector_of(text, max(labels, 2))]
    if labels == 1:
        return [1 / (1 + math.exp(-numbers[0]))]
    weights = list(map(math.exp, numbers))
    return [weight / sum(weights) for weight in weights]


def score_of(settings: Settings, query: str, document: str) -> float:
    """How near two texts are.

    An embedding model compares their vectors, a cross-encoder the words that they share.
    """
    if settings.pooling_task == "classify":
        asked, said = {*query.lower().split()}, {*document.lower().split()}
        shared = len(asked & said) / (len(asked | said) or 1)
        (between,) = probabilities_of(f"{query}\n{document}", 1)
        return 0.98 * shared + 0.02 * between
    pair = (vector_of(text, settings.dimensions) for text in (query, document))
    return math.fsum(one * other for one, other in zip(*pair, strict=True))


def read_for(settings: Settings, pairs: Sequence[tuple[str, str]]) -> int:
    """The tokens that are read for scores: a cross-encoder reads the query with each document."""
    queries = [query for query, _ in pairs]
    if settings.pooling_task != "classify" and len({*queries}) == 1:
        queries = queries[:1]
    return length_of([*queries, *(document for _, document in pairs)])


class AnswerHead(msgspec.Struct, frozen=True):
    """What all answers about texts have: an id, a time, and the model's name."""

    id: str
    created: int
    model: str

    def body(self, data: Sequence[dict[str, Any]], tokens: int) -> bytes:
        """A list of data, one for each text."""
        return encode(
            {
                "id": self.id,
                "object": "list",
                "created": self.created,
                "model": self.model,
                "data": data,
                "usage": usage_of(tokens),
            }
        )

    def metadata(self, sizes: Sequence[tuple[int, list[int]]], tokens: int) -> bytes:
        """The header of an answer in bytes; `sizes`: each text's bytes, and their shape."""
        items, start = [], 0
        for index, (size, shape) in enumerate(sizes):
            form = {"embed_dtype": "float32", "endianness": "native"}
            ends = {"start": start, "end": start + size, "shape": shape}
            items.append({"index": index, **form, **ends})
            start += size
        head = {"id": self.id, "created": self.created, "model": self.model, "data": items}
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json.dumps({**head, "usage": usage}).encode()


def _pooled(settings: Settings, text: str) -> list[float] | list[list[float]]:
    """What the pooler makes of a text: of all of it, or of each token."""
    task = settings.pooling_task
    labels = settings.hf_overrides.num_labels
    if task == "embed":
        return list(vector_of(text, settings.dimensions))
    if task == "classify":
        return probabilities_of(text, labels)
    words = text.split()
    if task == "token_embed":
        return [list(vector_of(word, settings.dimensions)) for word in words]
    return [probabilities_of(word, labels) for word in words]


def pooling_body(
    request: PoolingRequest, head: AnswerHead, settings: Settings
) -> tuple[bytes, bytes]:
    """The answer to a pooling request, and its ``metadata`` header where it is in bytes."""
    texts = request.texts()
    pooled = [_pooled(settings, text) for text in texts]
    flat = [_flat(each) for each in pooled]
    if request.encoding_format in ("bytes", "bytes_only"):
        shapes = map(_shape, pooled)
        sizes = [(4 * len(each), shape) for each, shape in zip(flat, shapes, strict=True)]
        bare = request.encoding_format == "bytes_only"
        metadata = b"" if bare else head.metadata(sizes, length_of(texts))
        return b"".join(map(packed_of, flat)), metadata
    coded: Sequence[Any] = pooled
    if request.encoding_format == "base64":
        coded = [coded_of(numbers) for numbers in flat]
    data = [{"index": index, "object": "pooling", "data": each} for index, each in enumerate(coded)]
    return head.body(data, length_of(texts)), b""


def _flat(pooled: list[float] | list[list[float]]) -> list[float]:
    return [number for each in pooled for number in (each if isinstance(each, list) else [each])]


def _shape(pooled: list[float] | list[list[float]]) -> list[int]:
    first = pooled[0] if pooled else 0.0
    return [len(pooled), len(first)] if isinstance(first, list) else [len(pooled)]


def classify_body(request: ClassifyRequest, head: AnswerHead, settings: Settings) -> bytes:
    """The classes of all texts."""
    texts = request.texts()
    labels = settings.hf_overrides.num_labels
    data = []
    for index, text in enumerate(texts):
        found = probabilities_of(text, labels)
        label = f"LABEL_{found.index(max(found))}"
        data.append({"index": index, "label": label, "probs": found, "num_classes": labels})
    return head.body(data, length_of(texts))


def score_body(request: ScoreRequest, head: AnswerHead, settings: Settings) -> bytes:
    """The scores of all pairs."""
    pairs = request.pairs()
    scores = [score_of(settings, *pair) for pair in pairs]
    data = [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ]
    return head.body(data, read_for(settings, pairs))


def rerank_body(request: RerankRequest, head: AnswerHead, settings: Settings) -> bytes:
    """The documents, the nearest to the query first."""
    pairs = request.pairs()
    scores = [score_of(settings, *pair) for pair in pairs]
    best = sorted(range(len(pairs)), key=scores.__getitem__, reverse=True)
    results = [
        {
            "index": index,
            "document": {"text": pairs[index][1], "multi_modal": None},
            "relevance_score": scores[index],
        }
        for index in best[: request.top_n or len(best)]
    ]
    read = read_for(settings, pairs)
    usage = {"prompt_tokens": read, "total_tokens": read}
    return encode({"id": head.id, "model": head.model, "usage": usage, "results": results})
