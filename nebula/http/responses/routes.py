"""Stored responses over HTTP: shown, streamed, cancelled, deleted, and their input items."""

from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Raw

from nebula.actors.gateway.delivery import new_id
from nebula.events.stored_responses import Asked, Ended
from nebula.http.errors import ApiError, unavailable
from nebula.http.paging import page
from nebula.http.principals import required
from nebula.http.relay import relay
from nebula.http.responses.following import Followed, Whole
from nebula.http.responses.turns import find
from nebula.openai import response_items, responses
from nebula.openai.repeated_run import RepeatedRun
from nebula.openai.stored_response import RUNNING, fold
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore

_DIGITS = 9


def whose(request: Request[Any, Any, Any]) -> str:
    """Return the owner of what a request may see."""
    return required(request.scope, "infer").owner


def as_json(value: object) -> Response[bytes]:
    """Return a value as an answer."""
    body = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
    return Response(body, media_type="application/json", status_code=200)


async def found(
    store: ResponseStore, identity: str, request: Request[Any, Any, Any]
) -> tuple[Ended | Asked, bool]:
    """Return what `find` does. Raise ApiError 404, 503."""
    try:
        return await find(store, identity, whose(request))
    except Unavailable as error:
        raise unavailable(f"responses can't be read now: {error}") from error


@get("/v1/responses/{response:str}")
async def show_response(
    response: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> ASGIApp:
    """Return a response as it is now, or its stream from an event on."""
    known, begun = await found(responses_kept, response, request)
    query = request.query_params
    if _yes(query, "stream"):
        asked = await _asked(responses_kept, known)
        return _stream(responses_kept, asked, _number(query, "starting_after"))
    body = known.response
    if begun and isinstance(known, Asked):
        body = Raw(msgspec.json.encode({**msgspec.json.decode(body), "status": RUNNING}))
    return partial(_show, body)


async def _show(body: Raw, _: Scope, receive: Receive, send: Send) -> None:
    await relay(Whole(new_id(), body), receive, send)


async def _asked(store: ResponseStore, known: Ended | Asked) -> Asked:
    """Return what was asked of a response that can be streamed. Raise ApiError."""
    asked: Asked | None = known if isinstance(known, Asked) else None
    if asked is None and known.head.background:
        try:
            asked = await store.asked(known.head.id)
        except Unavailable as error:
            raise unavailable(f"responses can't be read now: {error}") from error
    if asked is None:
        text = "only a response that was created with background=true can be streamed later"
        raise ApiError(400, text, param="stream")
    return asked


def _stream(store: ResponseStore, asked: Asked, after: int) -> ASGIApp:
    async def respond(_: Scope, receive: Receive, send: Send) -> None:
        source = Followed(store, asked, stream=True, after=after)
        try:
            await relay(source, receive, send, stream=True, dialect="responses")
        finally:
            await source.close()

    return respond


@post("/v1/responses/{response:str}/cancel", status_code=200)
async def cancel_response(
    response: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Cancel a response in the background; one that is over stays as it is."""
    store = responses_kept
    known, _ = await found(store, response, request)
    if not known.head.background:
        text = "Cannot cancel a synchronous response: it has no background=true."
        raise ApiError(400, text, param="response_id")
    try:
        while not isinstance(known, Ended):
            entries, last = await store.entries(response)
            stored = fold([known, *entries])
            if stored is None:
                raise ApiError(404, f"Response with id '{response}' not found.")
            if stored.ended is not None:
                known = stored.ended
                break
            run = RepeatedRun(response, stored.events, stored.section)
            cancelled = responses.cancelled(stored.response, run.output())
            run.close(cancelled, "response.incomplete")
            ended = Ended(
                head=known.head,
                response=Raw(msgspec.json.encode(cancelled)),
                first=len(stored.events),
                events=run.added,
            )
            if await store.append(response, ended, last) is not None:
                store.tell_over(response)
                known = ended
    except Unavailable as error:
        raise unavailable(f"the response can't be cancelled now: {error}") from error
    return as_json(known.response)


@delete("/v1/responses/{response:str}", status_code=200)
async def delete_response(
    response: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Delete a response; one that is still being made is not made any more."""
    await found(responses_kept, response, request)
    try:
        await responses_kept.remove(response)
    except Unavailable as error:
        raise unavailable(f"the response can't be deleted now: {error}") from error
    return as_json({"id": response, "object": "response", "deleted": True})


@get("/v1/responses/{response:str}/input_items")
async def list_input_items(
    response: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Return the items of a response's own input."""
    known, _ = await found(responses_kept, response, request)
    items = response_items.listed(bytes(known.head.items), response)
    return as_json(page(items, request.query_params, most=100, usual=20, identify=itemgetter("id")))


def _yes(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise ApiError(400, f"{name} must be true or false", param=name)
    return value in ("true", "1")


def _number(query: Mapping[str, str], name: str) -> int:
    """Return the number of an event; -1 if none is given."""
    value = query.get(name)
    if value is None:
        return -1
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS):
        raise ApiError(400, f"{name} must be the number of an event", param=name)
    return int(value)
