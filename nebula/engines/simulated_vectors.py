"""The vectors of a simulated engine, and the embeddings made of them. Pure.

The shapes are those of vLLM 0.32 (``vllm/entrypoints/pooling/embed``).
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from nebula.engines.simulated_http import Refusal, encode, invalid
from nebula.engines.simulated_requests import Message, Part

Vector = tuple[float, ...]


class TextsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The common fields of what takes texts, or a chat as one text."""

    input: str | list[str | int | list[int]] | None = None
    messages: list[Message] | None = None
    model: str | None = None

    def texts(self) -> list[str]:
        """The texts, each of which gets an answer. Raise Refusal."""
        if self.input is None and not self.messages:
            raise invalid("body.input", "Field required", "missing")
        if self.messages:  # vLLM looks at the messages where there are both
            return [" ".join(message.text() for message in self.messages)]
        texts = texts_of(self.input or [])
        if not texts:
            raise Refusal(400, "You must pass at least one prompt", "BadRequestError")
        return texts


class EmbeddingRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /v1/embeddings."""

    encoding_format: str = "float"


class CohereInput(msgspec.Struct, frozen=True):
    """One of Cohere's inputs, in parts."""

    content: list[Part]


class CohereRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v2/embed."""

    texts: list[str] | None = None
    images: list[str] | None = None
    inputs: list[CohereInput] | None = None
    model: str | None = None
    input_type: str | None = None
    output_dimension: int | None = None
    embedding_types: list[Literal["float", "binary", "ubinary", "base64"]] | None = None

    def given(self) -> list[str]:
        """The texts, each of which gets a vector. Raise Refusal."""
        fields = [each for each in (self.texts, self.images, self.inputs) if each is not None]
        if len(fields) != 1 or not fields[0]:
            text = "Value error, Exactly one of texts, images, or inputs must be provided, and it"
            raise invalid("body", f"{text} must be non-empty")
        inputs = self.inputs or []
        joined = [" ".join(part.text for part in each.content) for each in inputs]
        return [*(self.texts or self.images or ()), *joined]

    def check(self, model: str) -> None:
        """Raise Refusal for what needs a model of another kind."""
        if self.output_dimension is not None:
            text = (
                f"Model '{model}' does not support Matryoshka embeddings; dimensions must be "
                f"unset (received dimensions={self.output_dimension})."
            )
            raise Refusal(400, text, "BadRequestError")


def texts_of(value: str | Sequence[Any]) -> list[str]:
    """The texts in an ``input``: a text, texts, token ids, or lists of token ids. Raise Refusal."""
    if isinstance(value, str):
        return [value]
    if value and all(isinstance(item, int) for item in value):
        return [" ".join(map(str, value))]
    if any(isinstance(item, int) for item in value):
        raise invalid("body", "Texts and token ids cannot be mixed")
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value]


def vector_of(text: str, dimensions: int) -> Vector:
    """The unit vector of ``text``: float32 values, the same for the same text everywhere."""
    digest = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", digest)
    norm = math.hypot(*raw) or 1.0
    packed = struct.pack(f"<{dimensions}f", *(value / norm for value in raw))
    return struct.unpack(f"<{dimensions}f", packed)


def packed_of(values: Sequence[float]) -> bytes:
    """Numbers as little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


def coded_of(values: Sequence[float]) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(packed_of(values)).decode()


def usage_of(tokens: int) -> dict[str, Any]:
    """The ``usage`` of an answer without tokens of its own."""
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def length_of(texts: Sequence[str]) -> int:
    """The tokens of all texts: one for each word."""
    return sum(len(text.split()) for text in texts)


def embeddings_body(
    request: EmbeddingRequest, answer_id: str, created: int, model: str, dimensions: int
) -> bytes:
    """The whole answer to an embedding request; base64 is of little-endian float32."""
    texts = request.texts()
    if request.encoding_format not in ("float", "base64"):
        raise invalid("body.encoding_format", "Input should be 'float' or 'base64'")
    data = []
    for index, text in enumerate(texts):
        vector: Vector | str = vector_of(text, dimensions)
        if request.encoding_format == "base64":
            vector = coded_of(vector_of(text, dimensions))
        data.append({"index": index, "object": "embedding", "embedding": vector})
    return encode(
        {
            "id": answer_id,
            "object": "list",
            "created": created,
            "model": model,
            "data": data,
            "usage": usage_of(length_of(texts)),
        }
    )


def cohere_body(request: CohereRequest, answer_id: str, dimensions: int) -> bytes:
    """The whole answer to Cohere's embedding request."""
    texts = request.given()
    vectors = [vector_of(text, dimensions) for text in texts]
    kinds = request.embedding_types or ["float"]
    if {"binary", "ubinary"} & {*kinds} and dimensions % 8:
        text = "Embedding dimension must be a multiple of 8 for binary embedding types"
        raise Refusal(400, f"{text}, but got {dimensions}.", "BadRequestError")
    made: dict[str, Callable[[Sequence[float]], Any]] = {
        "float": lambda vector: vector,
        "binary": lambda vector: [byte - 128 for byte in _bits(vector)],
        "ubinary": _bits,
        "base64": coded_of,
    }
    read = length_of(texts)
    units = {"input_tokens": 0 if request.images else read}
    return encode(
        {
            "id": answer_id,
            "embeddings": {kind: [made[kind](vector) for vector in vectors] for kind in kinds},
            **({} if request.texts is None else {"texts": request.texts}),
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {**units, "image_tokens": read if request.images else 0},
            },
            "response_type": "embeddings_by_type",
        }
    )


def _bits(vector: Sequence[float]) -> list[int]:
    """One bit for each number, set unless it is negative; eight in a byte, the first highest."""
    bits = "".join("01"[value >= 0] for value in vector)
    return list(int(bits, 2).to_bytes(len(bits) // 8))
