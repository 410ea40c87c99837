"""Conversations over HTTP: their metadata, and their items."""

import uuid
from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get, post
from msgspec import Raw, Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.events import metadata as rules
from nebula.events.reading import UNREADABLE
from nebula.events.stored_responses import Conversation, ConversationItem
from nebula.events.wrong_values import in_words
from nebula.http.bad_json import no_json
from nebula.http.bodies import read_body
from nebula.http.errors import ApiError, field_at_fault, unavailable
from nebula.http.inference import Limits
from nebula.http.paging import page
from nebula.http.responses.routes import as_json, whose
from nebula.http.responses.turns import new_conversation, no_conversation, too_large
from nebula.openai.input_items import problem
from nebula.openai.response_items import shown
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore, TooLarge

MOST_NEW = 20
"""Number of items that one request may add, as at OpenAI."""

S = TypeVar("S", bound=Struct)


class ConversationCreation(Struct, forbid_unknown_fields=True):
    """A conversation as it is created."""

    metadata: dict[str, str] | None = None
    items: list[dict[str, Any]] | None = None


class ConversationUpdate(Struct, forbid_unknown_fields=True):
    """The metadata that a conversation has from now on."""

    metadata: dict[str, str] | None


class NewItems(Struct, forbid_unknown_fields=True):
    """Items for a conversation."""

    items: list[dict[str, Any]]


async def _read(
    request: Request[Any, Any, Any], gateway: Gateway, limits: Limits, kind: type[S]
) -> S:
    hold = Hold(gateway.bodies)
    headers = dict(request.scope["headers"])
    raw = b""
    try:
        raw = await read_body(request.receive, headers, limits.body_for(gateway), hold)
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    except UNREADABLE as error:
        raise no_json(raw, error) from error
    finally:
        hold.release()


def _metadata(pairs: dict[str, str] | None) -> Raw:
    """Return metadata as JSON. Raise ApiError 400."""
    if wrong := rules.problem(pairs):
        raise ApiError(400, wrong, param="metadata")
    return Raw(msgspec.json.encode(pairs or {}))


def _new_items(items: list[dict[str, Any]] | None) -> list[Raw]:
    """Return items that a client adds, each with an id of its own. Raise ApiError 400."""
    items = items or []
    if len(items) > MOST_NEW:
        text = f"{len(items)} items: {MOST_NEW} can be added at a time"
        raise ApiError(400, text, param="items")
    if (found := problem(items, "items")) is not None:
        raise ApiError(400, found.text, param=found.param)
    made = [shown({**item, "id": None}, uuid.uuid4().hex) for item in items]
    return [Raw(msgspec.json.encode(item)) for item in made]


def _items(conversation: Conversation) -> list[dict[str, Any]]:
    """Return all items as they are shown."""
    place = conversation.id
    return [
        shown(msgspec.json.decode(each.item), f"{each.of or place} {number}")
        for number, each in enumerate(conversation.items)
    ]


def _view(conversation: Conversation) -> Response[bytes]:
    return as_json(
        {
            "id": conversation.id,
            "object": "conversation",
            "created_at": conversation.created,
            "metadata": conversation.metadata,
        }
    )


def _added(conversation: Conversation, count: int) -> Response[bytes]:
    items = _items(conversation)[len(conversation.items) - count :]
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
    return as_json(
        {
            "object": "list",
            "data": items,
            "first_id": None,
            "last_id": None,
            "has_more": False,
            **ends,
        }
    )


async def _found(
    store: ResponseStore, identity: str, request: Request[Any, Any, Any]
) -> tuple[Conversation, int]:
    """Return an owner's conversation and its sequence. Raise ApiError 404, 503."""
    try:
        found, seq = await store.conversation(identity)
    except Unavailable as error:
        raise unavailable(f"conversations can't be read now: {error}") from error
    if found is None or found.owner != whose(request):
        raise no_conversation(identity)
    return found, seq


async def _changed(
    store: ResponseStore,
    identity: str,
    request: Request[Any, Any, Any],
    change: Callable[[Conversation], Conversation],
    added: int = 0,
) -> Conversation:
    """Change a conversation, whatever else changes it meanwhile. Raise ApiError.

    `added`: bytes that the change adds.
    """
    while True:
        found, seq = await _found(store, identity, request)
        changed = change(found)
        try:
            if await store.put_conversation(changed, seq):
                return changed
        except TooLarge as error:
            if added > int(error.args[0]):
                raise too_large(error, "what is added", "items") from error
            raise too_large(error, "this conversation with what is added") from error
        except Unavailable as error:
            raise unavailable(f"the conversation can't be stored now: {error}") from error


@post("/v1/conversations", status_code=200)
async def create_conversation(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    limits: Limits,
    responses_kept: ResponseStore,
) -> Response[bytes]:
    """Begin a conversation, perhaps with items."""
    wanted = await _read(request, gateway, limits, ConversationCreation)
    metadata, items = _metadata(wanted.metadata), _new_items(wanted.items)
    made = new_conversation(f"conv_{uuid.uuid4().hex}", whose(request), metadata, items)
    try:
        await responses_kept.open()
        await responses_kept.put_conversation(made, 0)
    except TooLarge as error:
        raise too_large(error, "what is to be in this conversation", "items") from error
    except Unavailable as error:
        raise unavailable(f"the conversation can't be stored now: {error}") from error
    return _view(made)


@get("/v1/conversations/{conversation:str}")
async def show_conversation(
    conversation: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Return a conversation without its items."""
    found, _ = await _found(responses_kept, conversation, request)
    return _view(found)


@post("/v1/conversations/{conversation:str}", status_code=200)
async def update_conversation(
    conversation: str,
    request: Request[Any, Any, Any],
    gateway: Gateway,
    limits: Limits,
    responses_kept: ResponseStore,
) -> Response[bytes]:
    """Replace a conversation's metadata."""
    wanted = await _read(request, gateway, limits, ConversationUpdate)
    metadata = _metadata(wanted.metadata)
    return _view(
        await _changed(
            responses_kept, conversation, request, lambda found: replace(found, metadata=metadata)
        )
    )


@delete("/v1/conversations/{conversation:str}", status_code=200)
async def delete_conversation(
    conversation: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Delete a conversation; its responses stay."""
    await _changed(
        responses_kept,
        conversation,
        request,
        lambda found: replace(found, items=[], metadata=Raw(b"{}"), deleted=True),
    )
    return as_json({"id": conversation, "object": "conversation.deleted", "deleted": True})


@post("/v1/conversations/{conversation:str}/items", status_code=200)
async def create_items(
    conversation: str,
    request: Request[Any, Any, Any],
    gateway: Gateway,
    limits: Limits,
    responses_kept: ResponseStore,
) -> Response[bytes]:
    """Add items to the end of a conversation."""
    wanted = await _read(request, gateway, limits, NewItems)
    new = [ConversationItem(item) for item in _new_items(wanted.items)]
    changed = await _changed(
        responses_kept,
        conversation,
        request,
        lambda found: replace(found, items=[*found.items, *new]),
        added=sum(len(bytes(each.item)) for each in new),
    )
    return _added(changed, len(new))


@get("/v1/conversations/{conversation:str}/items")
async def list_items(
    conversation: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Return the items of a conversation, page by page."""
    found, _ = await _found(responses_kept, conversation, request)
    return as_json(
        page(_items(found), request.query_params, most=100, usual=20, identify=itemgetter("id"))
    )


@get("/v1/conversations/{conversation:str}/items/{item:str}")
async def show_item(
    conversation: str, item: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Return one item of a conversation."""
    found, _ = await _found(responses_kept, conversation, request)
    return as_json(_items(found)[_place(found, item)])


@delete("/v1/conversations/{conversation:str}/items/{item:str}", status_code=200)
async def delete_item(
    conversation: str, item: str, request: Request[Any, Any, Any], responses_kept: ResponseStore
) -> Response[bytes]:
    """Remove one item of a conversation, and return the conversation."""

    def without(found: Conversation) -> Conversation:
        at = _place(found, item)
        kept = [each for number, each in enumerate(found.items) if number != at]
        return replace(found, items=kept)

    return _view(await _changed(responses_kept, conversation, request, without))


def _place(conversation: Conversation, item: str) -> int:
    """Return the place of an item. Raise ApiError 404."""
    for number, each in enumerate(_items(conversation)):
        if each["id"] == item:
            return number
    raise ApiError(404, f"Item with id '{item}' not found in '{conversation.id}'.")
