"""The token ids of a simulated engine: each holds its word and its place in the conversation.

So every engine reads what another wrote, without a vocabulary, and an answer continues exactly
where it was when it is requested with the ids of its prompt and of its first tokens. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

CONTEXT: Final = 0
"""A word of the prompt that the answer does not use."""
REPEATED: Final = 1
"""A word of the prompt that the answer repeats."""
SAID: Final = 2
"""A token of the answer."""

# No text begins with this byte, so a number without a word can be recognised.
_MARK = b"\xff"


class Prompt(msgspec.Struct, frozen=True):
    """A decoded prompt: the words to repeat, its length, and how much was already answered."""

    words: list[str]
    tokens: int
    said: int = 0


def id_of(word: str, place: int = SAID) -> int:
    """The token id of a word at a place."""
    return int.from_bytes(_MARK + word.encode()) << 2 | place


def ids_of(words: Iterable[str], place: int = SAID) -> list[int]:
    """The token ids of words at one place."""
    return [id_of(word, place) for word in words]


def _word(number: int) -> str | None:
    """The word that a token id holds, if it holds one."""
    held = number >> 2
    raw = held.to_bytes((held.bit_length() + 7) // 8)
    return raw[1:].decode(errors="replace") if raw[:1] == _MARK else None


def read(ids: Sequence[int]) -> Prompt:
    """The prompt that token ids stand for; those that hold no word are words of digits."""
    words, said = [], 0
    for number in ids:
        word = _word(number)
        if word is None:
            words.append(str(number))
        elif number & 3 == SAID:
            said += 1
        elif number & 3 == REPEATED:
            words.append(word)
    return Prompt(words, len(ids), said)


def text_of(ids: Sequence[int]) -> str:
    """The text that token ids stand for."""
    return " ".join(_word(number) or str(number) for number in ids)
