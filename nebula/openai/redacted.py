"""Redacts the bodies of captured requests: texts are masked, dropped or searched. Pure.

The shape stays: the names of fields, the order and length of lists, and the few values that say
what kind of thing something is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from nebula.events.capture_events import Contents, Hidden
from nebula.events.masking import MASK, is_secret, masked
from nebula.events.plain_text import without_long_words
from nebula.events.reading import UNREADABLE

LARGEST = 128 * 1024
"""Bytes of a body that is captured; of a larger one only its size is told."""

LONGEST_WORD = 256
"""Characters of a word that is kept; a longer one becomes its length."""

_DEEPEST = 60
_LONGEST = 16 * 1024
"""Characters of a text that is masked letter by letter; a longer one becomes its length."""

_SHAPE = frozenset((
    "model", "role", "type", "object", "finish_reason", "tool_choice", "encoding_format",
    "reasoning_effort", "detail", "truncation", "service_tier", "status",
))  # fmt: skip
"""Fields whose values say what something is, not what is said."""

_WORD = re.compile(r"[A-Za-z0-9_./:-]{1,128}")
_LETTER = re.compile(r"\w")

PATTERNS: Mapping[Hidden, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]+@[\w.-]+"),
    "number": re.compile(r"\d(?:[ -]?\d){5,40}"),
    "url": re.compile(r"\bhttps?://\S{1,2000}"),
}
"""What each kind of hidden text looks like; each takes time in proportion to the text."""


def hiding(
    contents: Contents, hidden: Sequence[Hidden] = (), words: Sequence[str] = ()
) -> Callable[[str], str]:
    """Return what is made of a text."""
    if contents == "drop":
        return _length
    if contents == "mask":
        return lambda text: _LETTER.sub("x", text) if len(text) <= _LONGEST else _length(text)
    patterns = [PATTERNS[each] for each in dict.fromkeys(hidden)]
    if words:
        longest_first = sorted(words, key=len, reverse=True)
        patterns.append(re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE))

    def searched(text: str) -> str:
        text = masked(without_long_words(text, LONGEST_WORD))
        for pattern in patterns:
            text = pattern.sub(MASK, text)
        return text

    return searched


def redacted(body: bytes, contents: Contents, text: Callable[[str], str]) -> tuple[Any, str]:
    """Return a body as JSON with `text` applied to its texts, or None and why there is none."""
    if len(body) > LARGEST:
        return None, f"it has more than {LARGEST} bytes"
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return None, "it is not JSON"
    return _through(value, text, "", _DEEPEST, numbers=contents == "keep"), ""


def _through(
    value: Any,
    text: Callable[[str], str],
    name: str,
    depth: int,
    *,
    numbers: bool,
    listed: bool = False,
) -> Any:
    """`numbers`: whether those in lists stay; as a prompt's token ids they are what is said."""
    if isinstance(value, str):
        kept = name in _SHAPE and _WORD.fullmatch(value) is not None and masked(value) == value
        return value if kept else text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return 0 if listed and not numbers else value
    if depth == 0:
        return MASK
    if isinstance(value, dict):
        return {
            _name(key): MASK
            if is_secret(key, item)
            else _through(item, text, key, depth - 1, numbers=numbers)
            for key, item in value.items()
        }
    return [_through(item, text, name, depth - 1, numbers=numbers, listed=True) for item in value]


def _name(key: str) -> str:
    """Return the name of a field, which may itself be what is said."""
    return masked(key) if len(key) <= LONGEST_WORD else _length(key)


def _length(text: str) -> str:
    return f"({len(text)} characters)"
