"""A page of a long list, as the console asks for it: `after` so many rows, `limit` of them."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from nebula.events.state import State
from nebula.http import paging
from nebula.http.console.shown_moment import moment_fields
from nebula.http.errors import ApiError
from nebula.http.shown_log import ShownLog

T = TypeVar("T")

LARGEST = 500
"""Rows of a page, at most."""

USUAL = 100
"""Rows of a page, unless a client asks for another number."""


class Cut(Struct, frozen=True):
    """Where a page begins, and how many rows it has at most."""

    begin: int
    size: int

    def rows(self, found: list[T]) -> list[T]:
        """Return those of a list that are on the page."""
        return found[self.begin : self.begin + self.size]

    def fields(self, past: ShownLog, state: State, found: Sequence[object]) -> dict[str, object]:
        """Return the fields that each page has beside its rows: its moment, `next`, `total`."""
        end = self.begin + self.size
        more = end if end < len(found) else None
        return {**moment_fields(past, state), "next": more, "total": len(found)}


def asked(after: str, limit: str | None = None) -> Cut:
    """Read which page a client asks for. Raise ApiError 400."""
    size = paging.limit(limit, LARGEST, USUAL)
    return Cut(_offset(after), size)


def of_size(after: str, size: int) -> Cut:
    """Read where a page of a fixed size begins. Raise ApiError 400."""
    return Cut(_offset(after), size)


def _offset(text: str) -> int:
    """Read how many rows come before a page. Raise ApiError 400."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ApiError(400, f"after: {text[:80]!r} is not a whole number", param="after")
    return int(text)
