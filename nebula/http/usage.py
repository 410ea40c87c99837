"""What was used, in the form of OpenAI's API: /v1/organization/usage/completions, …/embeddings."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, get

from nebula.actors.gateway.actor import Gateway
from nebula.events.usage import UsageSum
from nebula.events.usage_sums import HOUR
from nebula.history import bill
from nebula.http import paging
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading
from nebula.http.principals import principal_of
from nebula.http.scanning import Scans
from nebula.store import usage_log
from nebula.store.connection import Unavailable

WIDTHS = {"1h": (HOUR, 24, 168), "1d": (24 * HOUR, 7, 31)}
"""Seconds of a bucket, and how many a page has: usually, and at most."""

GROUPS = {"project_id": "tenant", "user_id": "user", "api_key_id": "key", "model": "model"}
"""OpenAI's words for what usage can be told apart by, and Nebula's."""

_VECTORS = frozenset(
    {"/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"}
    | {"/rerank", "/v1/rerank", "/v2/rerank"}
)


@get("/v1/organization/usage/completions")
async def show_completions(
    request: Request[Any, Any, Any], gateway: Gateway, scans: Scans
) -> dict[str, Any]:
    """Show the tokens of requests that were answered with text, in buckets of time.

    A key that belongs to a tenant sees what that tenant used.
    """
    return await _show(request, gateway, scans, "completions")


@get("/v1/organization/usage/embeddings")
async def show_embeddings(
    request: Request[Any, Any, Any], gateway: Gateway, scans: Scans
) -> dict[str, Any]:
    """Show the tokens of requests that were answered with vectors, in buckets of time."""
    return await _show(request, gateway, scans, "embeddings")


async def _show(
    request: Request[Any, Any, Any], gateway: Gateway, scans: Scans, kind: str
) -> dict[str, Any]:
    query = request.query_params
    width, usual, most = _width(query.get("bucket_width", "1d"))
    begin = _time(query.get("page") or query.get("start_time"), "start_time") // width * width
    end = _time(query.get("end_time") or str(begin + most * width), "end_time")
    limit = paging.limit(query.get("limit"), most, usual)
    by = [each for name in ("group_by", "group_by[]") for each in query.getall(name, [])]
    for group in by:
        if group not in GROUPS:
            text = f"group_by: {group[:80]!r} is none of {', '.join(GROUPS)}"
            raise ApiError(400, text, param="group_by")
    buckets = list(range(begin, end, width)[: limit + 1])
    shown = buckets[:limit]
    try:
        until = shown[-1] + width if shown else begin
        async with reading(scans) as scan:
            found = await usage_log.usage(gateway.connection, begin, until, scan.worked)
    except Unavailable as error:
        raise unavailable(str(error), 1) from error
    vectors = kind == "embeddings"
    key = principal_of(request.scope).key
    tenant = key.tenant if key is not None else ""
    sums = [
        each
        for each in found.sums
        if (each.path in _VECTORS) == vectors and tenant in ("", each.tenant)
    ]
    return {
        "object": "page",
        "data": [_bucket(sums, (start, start + width), by, kind) for start in shown],
        "has_more": len(buckets) > limit,
        "next_page": str(buckets[limit]) if len(buckets) > limit else None,
    }


def _bucket(
    sums: Sequence[UsageSum], span: tuple[int, int], by: Sequence[str], kind: str
) -> dict[str, Any]:
    start, end = span
    inside = [each for each in sums if start <= each.hour < end]
    return {
        "object": "bucket",
        "start_time": start,
        "end_time": end,
        "results": [
            _result(line, by, kind) for line in bill.lines(inside, [GROUPS[name] for name in by])
        ],
    }


def _result(line: bill.Line, by: Sequence[str], kind: str) -> dict[str, Any]:
    values = {name: value or None for name, value in zip(by, line.values, strict=True)}
    counts: dict[str, Any] = {"input_tokens": line.prompt, "num_model_requests": line.requests}
    if kind == "completions":
        counts |= {"output_tokens": line.completion, "input_cached_tokens": line.cached}
    groups = {name: values.get(name) for name in GROUPS}
    return {"object": f"organization.usage.{kind}.result", **counts, **groups}


def _width(text: str) -> tuple[int, int, int]:
    if text not in WIDTHS:
        text = f"bucket_width: {text[:80]!r} is none of {', '.join(WIDTHS)}: usage is kept by hour"
        raise ApiError(400, text, param="bucket_width")
    return WIDTHS[text]


def _time(text: str | None, name: str) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 12):
        said = "missing" if text is None else f"{text[:80]!r}"
        raise ApiError(400, f"{name}: {said} is not a number of seconds since 1970", param=name)
    return int(text)
