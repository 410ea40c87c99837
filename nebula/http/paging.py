"""Pages of a list, as OpenAI's API has them: `after`, `limit`, `order`, `has_more`. Pure."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from nebula.http.errors import ApiError

T = TypeVar("T")


def page(
    items: Sequence[T],
    query: Mapping[str, str],
    *,
    most: int,
    usual: int,
    order: str = "desc",
    identify: Callable[[T], str] = attrgetter("id"),
) -> dict[str, Any]:
    """Return one page of a list whose items come the oldest first. Raise ApiError 400.

    `most`: the largest `limit`; `usual`: the limit if none is given; `order`: likewise.
    `identify`: returns an item's id.
    """
    order = query.get("order", order)
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order: {order!r} is neither asc nor desc", param="order")
    shown_at_most = limit(query.get("limit"), most, usual)
    listed = list(items) if order == "asc" else list(reversed(items))
    if after := query.get("after"):
        at = next((n for n, item in enumerate(listed) if identify(item) == after), None)
        if at is None:
            raise ApiError(400, f"after: there is no {after!r} in this list", param="after")
        listed = listed[at + 1 :]
    shown = listed[:shown_at_most]
    return {
        "object": "list",
        "data": shown,
        "first_id": identify(shown[0]) if shown else None,
        "last_id": identify(shown[-1]) if shown else None,
        "has_more": len(listed) > shown_at_most,
    }


def limit(text: str | None, most: int, usual: int) -> int:
    """Return how many items a page may have, by its query. Raise ApiError 400."""
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise ApiError(400, f"limit: {text!r} is not a number from 1 to {most}", param="limit")
    return int(text)
