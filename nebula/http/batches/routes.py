"""OpenAI's batches: /v1/batches. They are requested and cancelled by events, as all else is."""

import hashlib
import time
from typing import Any

import msgspec
from litestar import Request, get, post
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.actors.intents import Refused, submit
from nebula.events import metadata, subjects
from nebula.events.batch import Batch
from nebula.events.intents import BatchCancelRequested, BatchRequested
from nebula.events.reading import UNREADABLE
from nebula.events.vocabulary import Event
from nebula.events.wrong_values import in_words
from nebula.http import own_fields, paging
from nebula.http.bad_json import no_json
from nebula.http.batches.views import BATCHED, BatchView, view, window
from nebula.http.bodies import read_body
from nebula.http.errors import ApiError, field_at_fault, unavailable
from nebula.http.files import routes as file_routes
from nebula.http.inference import Limits
from nebula.http.principals import principal_of, required
from nebula.store.batch_queue import BatchQueue, new_id
from nebula.store.connection import Unavailable
from nebula.store.files import Files
from nebula.store.log import TooLarge
from nebula.store.tail import LogReplaced


class ExpiresAfter(Struct):
    """When the files with results are dropped."""

    anchor: str
    seconds: int


class BatchCreation(Struct):
    """The body of a request for a batch. `wake` is Nebula's own: start models that sleep."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None
    wake: bool = False


def check_endpoint(path: str) -> None:
    """Raise ApiError 400 for a path that lines can't be sent to."""
    if path not in BATCHED:
        text = f"endpoint: {path[:80]!r} is none of {', '.join(BATCHED)}"
        raise ApiError(400, text, param="endpoint")


def _of(request: Request[Any, Any, Any], gateway: Gateway, identity: str) -> Batch:
    """Return a batch of the caller. Raise ApiError 404."""
    batch = gateway.projection.state.batches.get(identity)
    if batch is None or batch.request.owner != required(request.scope, "infer").owner:
        text = f"No batch found with id {identity[:80]!r}"
        raise ApiError(404, text, param="batch_id", code="not_found")
    return batch


@post("/v1/batches", status_code=200, request_max_body_size=None)
async def create_batch(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    files: Files,
    queue: BatchQueue,
    limits: Limits,
) -> BatchView:
    """Request a batch: every line of a file is sent to an endpoint."""
    headers = own_fields.fields(request.scope)
    asked = await _read(request, gateway, limits, headers)
    whose = required(request.scope, "infer").owner
    key = own_fields.idempotency_key(headers)
    check_endpoint(asked.endpoint)
    life = asked.output_expires_after
    keep = file_routes.lifetime(life and life.anchor, life and life.seconds, "output_expires_after")
    wanted = _intent(asked, whose, key, keep)
    known = _before(gateway, wanted)
    if known is not None:
        return view(known)
    file = await file_routes.find(files, asked.input_file_id, whose, "input_file_id")
    if file.facts.purpose != "batch":
        text = f"the file's purpose is {file.facts.purpose}: a batch needs one of purpose batch"
        raise ApiError(400, text, param="input_file_id")
    if file.facts.expires < time.time() + wanted.window:
        text = "the file expires before the completion window is over: upload it for longer"
        raise ApiError(400, text, param="input_file_id")
    try:
        await queue.open()
    except Unavailable as error:
        raise unavailable(f"no batch can be taken: {error}") from error
    identity = new_id()
    try:
        await _submit(request, gateway, identity, wanted)
    except Refused as error:
        known = _before(gateway, wanted)
        if known is not None:
            return view(known)
        raise ApiError(429, str(error), code="refused", retry_after=60) from error
    return view(gateway.projection.state.batches[identity])


async def _read(
    request: Request[Any, Any, Any], gateway: Gateway, limits: Limits, headers: dict[bytes, bytes]
) -> BatchCreation:
    hold = Hold(gateway.bodies)
    raw = b""
    try:
        raw = await read_body(request.receive, headers, limits.body_for(gateway), hold)
        return msgspec.json.decode(raw, type=BatchCreation)
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    except UNREADABLE as error:
        raise no_json(raw, error) from error
    finally:
        hold.release()


def _window(text: str) -> float:
    try:
        return window(text)
    except ValueError as error:
        name = "completion_window"
        raise ApiError(400, f"{name}: {error}", param=name) from error


def _intent(asked: BatchCreation, whose: str, key: str | None, keep: int) -> BatchRequested:
    """Return the event of a request for a batch. Raise ApiError 400."""
    if problem := metadata.problem(asked.metadata):
        raise ApiError(400, problem, param="metadata")
    of = "" if key is None else hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    fields = {
        "input": asked.input_file_id,
        "endpoint": asked.endpoint,
        "window": _window(asked.completion_window),
        "owner": whose,
        "idempotency": of,
        "metadata": asked.metadata or {},
        "wake": asked.wake,
        "keep": keep,
    }
    if not subjects.is_token(asked.input_file_id):
        text = f"No such File object: {asked.input_file_id[:80]}"
        raise ApiError(404, text, param="input_file_id", code="not_found")
    try:
        return msgspec.convert(fields, BatchRequested)
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error


def _before(gateway: Gateway, wanted: BatchRequested) -> Batch | None:
    """Return the batch of an earlier request with the same key. Raise ApiError 422."""
    if not wanted.idempotency:
        return None
    for batch in gateway.projection.state.batches.values():
        request = batch.request
        if (request.owner, request.idempotency) == (wanted.owner, wanted.idempotency):
            if request != wanted:
                raise ApiError(
                    422,
                    "this Idempotency-Key was used for another batch",
                    code="idempotency_key_reused",
                )
            return batch
    return None


async def _submit(
    request: Request[Any, Any, Any], gateway: Gateway, identity: str, event: Event
) -> None:
    """Append an intent. Raise Refused, ApiError."""
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    if refused := gateway.log_watch.refuses():
        raise unavailable(f"{refused}; nothing was recorded", 10)
    try:
        await submit(gateway.projection, identity, event, by=principal_of(request.scope).name)
    except TooLarge as error:
        raise ApiError(413, str(error), code="too_large") from error
    except (Unavailable, LogReplaced) as error:
        raise unavailable(str(error)) from error


@get("/v1/batches")
async def list_batches(request: Request[Any, Any, Any], gateway: Gateway) -> dict[str, Any]:
    """List the caller's batches, the newest first: `after` and `limit` choose."""
    whose = required(request.scope, "infer").owner
    batches = gateway.projection.state.batches.values()
    owned = [each for each in batches if each.request.owner == whose]
    owned.sort(key=lambda batch: (batch.created_ns, batch.id))
    query = dict(request.query_params)
    return paging.page([view(each) for each in owned], query, most=100, usual=20)


@get("/v1/batches/{batch:str}")
async def show_batch(batch: str, request: Request[Any, Any, Any], gateway: Gateway) -> BatchView:
    """Show one batch."""
    return view(_of(request, gateway, batch))


@post("/v1/batches/{batch:str}/cancel", status_code=200)
async def cancel_batch(batch: str, request: Request[Any, Any, Any], gateway: Gateway) -> BatchView:
    """End a batch early; the answers that are there are kept."""
    known = _of(request, gateway, batch)
    if not known.ending:
        try:
            await _submit(request, gateway, batch, BatchCancelRequested())
        except Refused as error:
            if not _of(request, gateway, batch).ending:
                raise ApiError(409, str(error), code="refused") from error
    known = _of(request, gateway, batch)
    if known.over and known.phase != "cancelled":
        text = f"Cannot cancel a batch with status {known.phase!r}"
        raise ApiError(409, text, code="invalid_status")
    return view(known)
