"""The errors for an unknown path or a wrong method: they say what exists."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from nebula.events.endpoints import ENDPOINTS
from nebula.http.errors import ApiError, respond

INFERENCE = dict.fromkeys(ENDPOINTS, ("POST",))
"""Paths that are answered before Litestar, with their methods."""

_TOLD = 200
"""Characters of an unknown path that are repeated in the error."""

_KIND = re.compile(r":\w+}")


def respond_to_path(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer a request for an unknown path or with a wrong method."""
    served = {**INFERENCE, **_routes(request.app.routes)}
    path = request.scope["path"]
    if error.status_code == 405:
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        allow = headers.get("allow", "")
        takes = allow or "another method"
        api = ApiError(405, f"{request.method} {_cut(path)}: this path takes {takes}", allow=allow)
    else:
        api = ApiError(404, no_path(path, served), code="unknown_url")
    return respond(request, api)


def no_path(path: str, served: Mapping[str, Iterable[str]]) -> str:
    """Return the message for an unknown `path`, with the nearest of the `served` paths."""
    first = "/" + path.lstrip("/").partition("/")[0]
    near = [each for each in served if each.startswith(f"{first}/")]
    near = near or [each for each in served if not each.startswith("/admin/")]
    listed = ", ".join(f"{'|'.join(sorted(served[each]))} {each}" for each in sorted(near))
    return f"there is nothing at {_cut(path)}; there is: {listed}"


def _cut(path: str) -> str:
    return repr(path if len(path) <= _TOLD else f"{path[:_TOLD]}…")


def _routes(routes: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """Return the paths of an application with the methods of each, without OPTIONS."""
    found: dict[str, tuple[str, ...]] = {}
    for route in routes:
        path = _KIND.sub("}", route.path)
        methods = {*found.get(path, ()), *getattr(route, "methods", ())} - {"OPTIONS"}
        found[path] = tuple(sorted(methods))
    return found
