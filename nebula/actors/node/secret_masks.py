"""Masks the secrets that an engine was given in what it writes: its node knows the values. Pure."""

import json
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias
from urllib.parse import quote

from nebula.events.masking import MASK

Mask: TypeAlias = Callable[[str], str]

_SHORT = 4
"""Characters of a value below which it is masked only where it stands as a word."""


def masking(values: Iterable[str]) -> Mask:
    """Return a function that masks these values in a line of text, also where they are quoted."""
    forms = {form for value in values for line in value.splitlines() for form in _forms(line)}
    if not forms:
        return unmasked
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join(map(_pattern, longest_first)))
    return lambda text: pattern.sub(MASK, text)


def unmasked(text: str) -> str:
    """Return a text unchanged."""
    return text


def _forms(line: str) -> set[str]:
    """Return a line of a value as it may stand in a log: as it is, in JSON, in Python, in a URL."""
    bare = line.strip()
    if not bare or bare == MASK:
        return set()
    quoted = (json.dumps(bare), json.dumps(bare, ensure_ascii=False), repr(bare))
    return {bare, *(each[1:-1] for each in quoted), quote(bare), quote(bare, safe="")}


def _pattern(form: str) -> str:
    found = re.escape(form)
    return found if len(form) >= _SHORT else rf"(?<!\w){found}(?!\w)"
