"""Models in the form of Anthropic's API, for clients that name its version. Pure.

Source: https://docs.anthropic.com/en/api/models-list.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from nebula.http import paging
from nebula.http.errors import ApiError

_USUAL, _MOST = 20, 1000
"""Models of a page: if nothing is asked for, and at most."""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """One model. `max_input_tokens`: what prompt and answer may have together, null until known."""

    id: str
    display_name: str
    created_at: str
    type: str = "model"
    lifecycle: str = "active"
    max_input_tokens: int | None = None


def model_info(name: str, created: int, context: int | None) -> ModelInfo:
    """Return a model by its name, the second of its first load, and its context."""
    at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ModelInfo(id=name, display_name=name, created_at=at, max_input_tokens=context)


def model_page(models: Sequence[ModelInfo], query: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of models, the newest first. Raise ApiError 400.

    `after_id` or `before_id` in the query: the model beside which the page lies.
    """
    listed = sorted(models, key=lambda each: each.id)
    listed.sort(key=lambda each: each.created_at, reverse=True)
    limit = paging.limit(query.get("limit"), _MOST, _USUAL)
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise ApiError(400, "after_id and before_id exclude each other", param="before_id")
    if before:
        listed = listed[: _place(listed, before, "before_id")]
        shown, more = listed[-limit:], len(listed) > limit
    else:
        listed = listed[_place(listed, after, "after_id") + 1 if after else 0 :]
        shown, more = listed[:limit], len(listed) > limit
    return {
        "data": shown,
        "has_more": more,
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
    }


def _place(models: Sequence[ModelInfo], name: str, param: str) -> int:
    for number, each in enumerate(models):
        if each.id == name:
            return number
    raise ApiError(400, f"{param}: there is no {name[:200]!r} in this list", param=param)
