"""The errors for an unknown path or a wrong method: they say what exists."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException

from nebula.events.endpoints import ENDPOINTS, REALTIME
from nebula.http import near_misses
from nebula.http.dialects import dialect_for, dialect_of, payload
from nebula.http.errors import ApiError
from nebula.http.near_misses import NearMiss
from nebula.http.not_offered import not_offered

INFERENCE = {**dict.fromkeys(ENDPOINTS, ("POST",)), REALTIME.path: ("GET",)}
"""Paths that are answered before Litestar, with their methods."""

NOT_OFFERED = {
    "/v1/responses/compact": "engines can't compact what was said",
    "/v1/responses/input_tokens": "POST /tokenize returns the tokens of a conversation",
}
"""OpenAI's paths that look like an id of ours, and what to say of them."""

_TOLD = 200
"""Characters of an unknown path that are repeated in the error."""

_KIND = re.compile(r":\w+}")


def respond_to_path(
    root: str, request: Request[Any, Any, Any], error: HTTPException
) -> Response[bytes]:
    """Answer a request for an unknown path or with a wrong method, in the form of its client.

    `root`: the prefix under which a proxy shows the gateway's paths.
    """
    path = request.scope["path"]
    dialect = dialect_for(path, request.scope["headers"])
    if (why := NOT_OFFERED.get(path.rstrip("/"))) is not None:
        api = ApiError(404, f"{_cut(root + path)} is not offered: {why}", code="unknown_url")
    elif error.status_code == 405:
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        api = wrong_method(request.method, root + path, headers.get("allow", ""))
    else:
        served = served_by(request.app)
        missing = not_offered(path, root)
        miss = near_misses.nearest(path, served) if not missing else None
        if miss is not None and dialect == "openai":
            dialect = dialect_of(miss.meant)
        api = ApiError(404, no_path(path, served, miss, root, missing), code="unknown_url")
    return Response(
        payload(api, dialect),
        status_code=api.status,
        headers=api.headers,
        media_type="application/json",
    )


def wrong_method(method: str, path: str, allow: str) -> ApiError:
    """Return the error for a method that a path does not take; `allow`: those that it takes."""
    text = f"{_cut(path)} does not take {method}: it takes {allow or 'another method'}"
    return ApiError(405, text, allow=allow, code="method_not_allowed")


def no_path(
    path: str,
    served: Mapping[str, Iterable[str]],
    miss: NearMiss | None = None,
    root: str = "",
    missing: str = "",
) -> str:
    """Return the message for an unknown `path`: the path that was meant, or where all are told.

    `missing`: what a client of another API wants there, in words.
    """
    nothing = f"there is nothing at {_cut(root + path)}"
    if miss is not None:
        wrong = near_misses.advice(miss, root)
        meant = f"{_methods(served[miss.meant])} {root}{miss.meant}"
        return f"{nothing}. Did you mean {meant}?" + (f" Then {wrong}." if wrong else "")
    what = f": {missing}" if missing else ""
    return f"{nothing}{what}. GET {root}/docs lists all paths, and GET {root}/openapi.json too"


def _methods(methods: Iterable[str]) -> str:
    return "|".join(sorted(methods))


def _cut(path: str) -> str:
    return repr(path if len(path) <= _TOLD else f"{path[:_TOLD]}…")


def served_by(app: Litestar) -> dict[str, tuple[str, ...]]:
    """Return all paths that a gateway serves, with the methods of each."""
    return {**INFERENCE, **_routes(app.routes)}


def _routes(routes: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """Return the paths of an application with the methods of each, without OPTIONS."""
    found: dict[str, tuple[str, ...]] = {}
    for route in routes:
        path = _KIND.sub("}", route.path)
        methods = {*found.get(path, ()), *getattr(route, "methods", ())} - {"OPTIONS"}
        found[path] = tuple(sorted(methods))
    return found
