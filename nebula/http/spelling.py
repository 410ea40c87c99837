"""Checks the spelling of a path: a path is never corrected to mean another one. Pure.

A proxy in front of the gateway may block `/admin` by a rule about paths. If the gateway dropped
empty segments or decoded slashes, a request could pass that rule: proxy and gateway would see
different paths. Only spellings that RFC 3986 (6.2.2.2) calls equivalent are equal here: letters,
digits and `-._~`, encoded or not.
"""

import re
from urllib.parse import unquote

from msgspec import Struct

_TOLD = 200
"""Characters of a path that are repeated in an error."""

_EMPTY = re.compile("/{2,}")
_SLASH = re.compile(rb"%2[Ff]")
WITHIN = (
    ("", "v1", "models"),
    ("", "admin", "models", None, "adapters"),
    ("", "admin", "nodes", None, "weights"),
)
"""The segments before a name that may contain slashes, encoded or not; None is any segment."""


class Misspelled(Struct, frozen=True):
    """Why a path does not exist."""

    text: str


def read(raw_path: bytes, root: str = "") -> str | Misspelled:
    """Return the decoded path of a request's target, or why it does not exist.

    A slash at its end is accepted. `root`: what stands before the paths that are told.
    """
    path = raw_path.decode("ascii")
    if "//" in path:
        return Misspelled(f"it has an empty segment; without that it is {squeezed(root + path)!r}")
    if "%" not in path:
        return path
    if _SLASH.search(raw_path):
        segments = [unquote(each) for each in path.removesuffix("/").split("/")]
        before = _before_name(segments)
        if any("/" in each for each in segments[:before]):
            return Misspelled("%2F stands for a slash only within the name of a model or its files")
        if "" in "/".join(segments[before:]).split("/") and before < len(segments):
            return Misspelled("a name has no empty segments")
    return unquote(path)


def squeezed(path: str) -> str:
    """Return a path without empty segments, cut to what fits into a sentence."""
    plain = _EMPTY.sub("/", path)
    return plain if len(plain) <= _TOLD else f"{plain[:_TOLD]}…"


def _before_name(segments: list[str]) -> int:
    """Return the number of segments before a name that may contain slashes, or of all segments."""
    for pattern in WITHIN:
        if len(segments) > len(pattern) and all(
            each is None or each == segment
            for each, segment in zip(pattern, segments, strict=False)
        ):
            return len(pattern)
    return len(segments)
