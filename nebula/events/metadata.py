"""Pairs of a client's own, which responses, conversations and batches carry. Pure.

The limits are OpenAI's: https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Annotated, TypeAlias

from msgspec import Meta

PAIRS, KEY, VALUE = 16, 64, 512
"""Pairs, and characters of a key and of a value, at most."""

Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=KEY)], Annotated[str, Meta(max_length=VALUE)]
    ],
    Meta(max_length=PAIRS),
]


def problem(pairs: dict[str, str] | None) -> str:
    """Return what is wrong with metadata, in words for its client; "" if nothing is."""
    pairs = pairs or {}
    if len(pairs) > PAIRS:
        return f"metadata has {len(pairs)} pairs: at most {PAIRS} are possible"
    for key, value in pairs.items():
        if not key:
            return "a key of metadata must not be empty"
        if len(key) > KEY:
            return f"the key {key[:KEY]!r}… of metadata has {len(key)} characters, at most {KEY}"
        if len(value) > VALUE:
            return f"metadata {key!r} has a value of {len(value)} characters, at most {VALUE}"
    return ""
