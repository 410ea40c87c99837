"""Generative scoring: how probable a simulated engine finds some tokens after a text. Pure.

The shapes are those of vLLM 0.32 (``vllm/entrypoints/generate/generative_scoring``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import msgspec

from nebula.engines.simulated_http import Refusal, encode
from nebula.engines.simulated_tokens import REPEATED, ids_of


class ScoringRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /generative_scoring; the score of an item is that of the first label."""

    query: str | list[int]
    items: list[str | list[int]]
    label_token_ids: list[int]
    model: str | None = None
    apply_softmax: bool = True
    item_first: bool = False

    def check(self) -> None:
        """Raise Refusal."""
        for label in self.label_token_ids:
            if label < 0:
                text = f"label_token_id {label} is out of vocabulary range"
                raise Refusal(400, f"{text}. Please provide valid token IDs.", "BadRequestError")
        if not self.label_token_ids:
            text = "label_token_ids must contain at least one token ID."
            raise Refusal(400, text, "BadRequestError")
        if not self.items:
            text = "items must contain at least one item."
            raise Refusal(400, text, "BadRequestError")

    def words(self) -> list[str]:
        """The words of the query."""
        return self.query.split() if isinstance(self.query, str) else []

    def prompts(self) -> list[list[int]]:
        """The token ids of each item's prompt."""
        query = _ids(self.query)
        return [
            _ids(item) + query if self.item_first else query + _ids(item) for item in self.items
        ]


def _ids(text: str | list[int]) -> list[int]:
    return ids_of(text.split(), REPEATED) if isinstance(text, str) else text


def _score(prompt: Sequence[int], labels: Sequence[int], softmax: bool) -> float:
    """The probability of the first label: among the labels, or among all tokens."""
    weights = [math.exp(_digested(f"{prompt} {label}") * 8) for label in labels]
    others = 0.0 if softmax else math.exp(8)
    return weights[0] / (sum(weights) + others)


def _digested(text: str) -> float:
    """A number from 0 to 1 that follows from the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def scoring_body(request: ScoringRequest, answer_id: str, created: int, model: str) -> bytes:
    """The scores of all items."""
    prompts = request.prompts()
    labels, softmax = request.label_token_ids, request.apply_softmax
    read, made = sum(map(len, prompts)), len(prompts)
    return encode(
        {
            "id": answer_id,
            "object": "list",
            "created": created,
            "model": model,
            "data": [
                {"index": index, "object": "score", "score": _score(prompt, labels, softmax)}
                for index, prompt in enumerate(prompts)
            ],
            "usage": {
                "prompt_tokens": read,
                "total_tokens": read + made,
                "completion_tokens": made,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
        }
    )
