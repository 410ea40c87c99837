"""The gateway's description of itself: its OpenAPI document, the page made of it, its version."""

import importlib.metadata
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from litestar import Request, Response, get

from nebula.http.document.page import page
from nebula.http.starting import WITHOUT_LOG

Description: TypeAlias = Callable[[], dict[str, Any]]
"""Returns the OpenAPI document."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
"""The page has no scripts, and loads nothing."""


def version() -> str:
    """Return the version of this Nebula."""
    return importlib.metadata.version("nebula-serving")


@get("/version", opt=WITHOUT_LOG)
async def show_version() -> dict[str, str]:
    """Return the version of Nebula, where vLLM returns its own."""
    return {"version": version()}


@get("/openapi.json", opt=WITHOUT_LOG)
async def show_document(description: Description) -> Response[bytes]:
    """Return this document: OpenAPI 3.1."""
    return Response(msgspec.json.encode(description()), media_type="application/json")


@get("/docs", opt=WITHOUT_LOG)
async def show_page(request: Request[Any, Any, Any], description: Description) -> Response[str]:
    """Return this document as a page for people."""
    host = request.headers.get("host", "localhost")
    secure = request.headers.get("x-forwarded-proto", "") == "https"
    text = page(description(), f"{'https' if secure else 'http'}://{host}")
    headers = {"content-security-policy": _POLICY}
    return Response(text, media_type="text/html", headers=headers)
