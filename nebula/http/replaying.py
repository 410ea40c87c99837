"""`POST /admin/captured/{identity}/replay`: a captured request is sent again, to another model.

It passes this gateway like any request of the caller's: with its key's limits, models and usage. So
the key needs the scope `infer` beside `admin`, which reads captures.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.captured import CapturedRequest
from nebula.events.showing import shown
from nebula.http.captures import check_no_tenant, found_request
from nebula.http.errors import ApiError, unavailable
from nebula.http.inference import Limits
from nebula.http.intents import read_intent
from nebula.http.principals import required
from nebula.http.scanning import Scans
from nebula.openai.replayed import NotReplayable, Replayed, body_again, replayed


class ReplayRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a captured request is sent again."""

    to: Annotated[
        str, Meta(min_length=1, max_length=256, description="Model, adapter or alias to ask.")
    ]


class ReplayAnswer(Struct, frozen=True):
    """A captured request with its answer then, and what came of it now.

    `replayed.status` is what a client would have got: above 399 `answer` has the error.
    """

    captured: CapturedRequest
    replayed: Replayed


@post("/admin/captured/{identity:str}/replay", status_code=200, request_max_body_size=None)
async def replay_captured(
    identity: str,
    request: Request[Any, Any, Any],
    gateway: Gateway,
    scans: Scans,
    limits: Limits,
    engine_paths: ASGIApp,
) -> ReplayAnswer:
    """Send a captured request again, to another model, and show both answers.

    What was masked is sent masked. The key needs the scope `infer`, too.
    """
    check_no_tenant(request)
    required(request.scope, "infer")
    asked, _ = await read_intent(request, gateway, limits, ReplayRequest, optional=False)
    captured = await found_request(identity, gateway, scans)
    try:
        body = msgspec.json.encode(body_again(captured, asked.to))
    except NotReplayable as error:
        raise ApiError(409, str(error), param="identity", code="refused") from error
    began = time.monotonic()
    status, headers, content = await _answered(engine_paths, request, captured.path, body)
    took = round((time.monotonic() - began) * 1000)
    new = headers.get(b"x-request-id", b"").decode("latin-1")
    return ReplayAnswer(shown(captured), shown(replayed(asked.to, status, took, content, new)))


async def _answered(
    app: ASGIApp, request: Request[Any, Any, Any], path: str, body: bytes
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, fields and body of the answer to a request of the same principal's."""
    lines = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    state = {**request.scope["state"]}
    state.pop("fields", None)
    scope: Any = {
        **request.scope,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": lines,
        "state": state,
    }
    status, fields, parts = 0, dict[bytes, bytes](), list[bytes]()

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            fields.update(message["headers"])
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    try:
        await app(scope, _receiving(body, request.receive), send)
    except ConnectionAbortedError as error:
        raise unavailable("the answer broke off") from error
    if not status:
        raise unavailable("there was no answer")
    return status, fields, b"".join(parts)


def _receiving(body: bytes, then: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Return an ASGI `receive` with this body; after it, the caller's own tells when it leaves."""
    left = [body]

    async def receive() -> Any:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await then()

    return receive
