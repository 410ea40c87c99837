"""A request to /v1/responses, before an engine gets it: what comes before it, and what is stored.

Engines keep nothing. What a client says with `previous_response_id` or `conversation` is read from
the store and put before the request's own input.
"""

import hashlib
import os
import time

import msgspec
from litestar.types import Receive, Send
from msgspec import Raw, Struct

from nebula.events.inference import Request
from nebula.events.reading import UNREADABLE
from nebula.events.stored_responses import (
    Asked,
    Conversation,
    ConversationItem,
    Deleted,
    Ended,
    Head,
    Key,
)
from nebula.events.wrong_values import in_words
from nebula.http.bad_json import no_json
from nebula.http.errors import ApiError, field_at_fault, unavailable
from nebula.http.relay import relay
from nebula.http.responses.following import Followed, Whole
from nebula.openai import input_items, responses
from nebula.openai.response_items import listed, of_output, own_items
from nebula.openai.responses import BadWish, Wishes
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore, TooLarge

MOST_TURNS = 1000
"""Number of responses before another at most."""

_USABLE = ("completed", "incomplete")
_SPARE = 1024 * 1024
"""Bytes of a conversation that are left for the answer of a turn."""


class Turn(Struct, frozen=True, kw_only=True):
    """A request with all that comes before it. `stored`: whether the response is to be stored."""

    wishes: Wishes
    head: Head
    body: bytes
    stored: bool


def no_response(identity: str, *, previous: bool = False) -> ApiError:
    """Return the error for a response that does not exist, or belongs to another."""
    if previous:
        return _no_previous(f"Previous response with id '{identity}' not found.")
    return ApiError(404, f"Response with id '{identity[:80]}' not found.")


def no_conversation(identity: str, param: str | None = None) -> ApiError:
    """Return the error for a conversation that does not exist, or belongs to another."""
    return ApiError(404, f"Conversation with id '{identity[:80]}' not found.", param=param)


def _no_previous(text: str) -> ApiError:
    code = "previous_response_not_found"
    return ApiError(404, text, param="previous_response_id", code=code)


def _gone(what: str, named: str) -> ApiError:
    """Return the error for a missing part of what comes before the response that is `named`."""
    return _no_previous(
        f"{what}, on which '{named}' builds, was deleted or is no longer kept: give what was said "
        "before as `input`, or begin anew."
    )


def too_large(error: TooLarge, what: str, param: str | None = None) -> ApiError:
    """Return a 413 that names the limit."""
    text = f"{what} is larger than {error} bytes, which is the most that can be stored"
    return ApiError(413, text, param=param, code="too_large")


async def read_turn(
    store: ResponseStore, body: bytes, owner: str, identity: str, limit: int
) -> Turn:
    """Return a request with what comes before it.

    `identity`: of the request, from which the response gets its own. `limit`: bytes of the whole.
    Raise ApiError.
    """
    wishes = _wishes(body)
    said = responses.input_of(body)
    _check(said)
    try:
        before = await _before(store, wishes, owner, limit, len(said))
        stored = wishes.store and await _can_store(store, wishes)
    except Unavailable as error:
        raise unavailable(f"responses can't be read or stored now: {error}") from error
    head = Head(
        id=responses.PREFIX + identity,
        owner=owner,
        created=int(time.time()),
        items=own_items(said),
        previous=wishes.previous,
        conversation=wishes.conversation,
        background=wishes.background,
    )
    whole = responses.for_engine(body, head.id, before)
    if len(whole) > limit:
        text = f"the request and what comes before it have {len(whole)} bytes, at most {limit}"
        raise ApiError(413, text, code="body_too_large")
    room = store.connection.max_body - _SPARE
    if stored and len(bytes(head.items)) > room:
        if wishes.said or wishes.background:
            text = f"the input has {len(said)} bytes: it can be stored with at most {room}"
            raise ApiError(413, text, param="input", code="too_large")
        stored = False
    return Turn(wishes=wishes, head=head, body=whole, stored=stored)


def _wishes(body: bytes) -> Wishes:
    try:
        return responses.wishes(body)
    except BadWish as error:
        raise ApiError(400, str(error), param=error.param) from error
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    except UNREADABLE as error:
        raise no_json(body, error) from error


def _check(said: bytes) -> None:
    """Raise ApiError 400 for an input that engines can't read."""
    if said.startswith(b'"'):
        return
    items = msgspec.json.decode(said)
    if not isinstance(items, list):
        raise ApiError(400, "input must be a string or an array", param="input")
    if (found := input_items.problem(items, "input")) is not None:
        raise ApiError(400, found.text, param=found.param)


async def _can_store(store: ResponseStore, wishes: Wishes) -> bool:
    """Return whether a response can be stored; without it, only what asks for it is refused."""
    try:
        await store.open()
        return True
    except Unavailable:
        if wishes.said or wishes.background:
            raise
        return False


async def _before(
    store: ResponseStore, wishes: Wishes, owner: str, limit: int, own: int
) -> list[bytes]:
    """Return the lists of items that come before a request's input, which has `own` bytes.

    Raise ApiError, Unavailable.
    """
    if wishes.conversation:
        room = store.connection.max_body - _SPARE
        if own > room:
            text = f"the input has {own} bytes: a conversation has room for {room}"
            raise ApiError(413, text, param="input", code="too_large")
        said = await _conversation(store, wishes.conversation, owner)
        if said is None:
            raise no_conversation(wishes.conversation, "conversation")
        if len(said) + own > room:
            text = (
                f"this conversation has {len(said)} bytes and the input {own}: together they may "
                f"have {room}. Begin another conversation"
            )
            raise ApiError(413, text, param="conversation", code="too_large")
        return [said]
    before: list[bytes] = []
    size, identity = 0, wishes.previous
    while identity:
        ended = await _ended(store, identity, owner, wishes.previous)
        if conversation := ended.head.conversation:
            said = await _conversation(store, conversation, owner, identity)
            if said is None:
                raise _gone(f"Conversation '{conversation}'", wishes.previous)
            before.append(said)
            break
        output = msgspec.json.encode(of_output(msgspec.json.decode(ended.response)))
        before += [output, bytes(ended.head.items)]
        size += len(output) + len(bytes(ended.head.items))
        if size > limit or len(before) > 2 * MOST_TURNS:
            text = (
                f"what comes before this request is longer than {limit} bytes or {MOST_TURNS} "
                "responses: begin anew"
            )
            raise ApiError(413, text, param="previous_response_id", code="body_too_large")
        identity = ended.head.previous
    return before[::-1]


async def _conversation(
    store: ResponseStore, identity: str, owner: str, until: str = ""
) -> bytes | None:
    """Return a conversation's items, or those up to the end of one response.

    Return None if its owner does not have it. Raise Unavailable.
    """
    found, _ = await store.conversation(identity)
    if found is None or found.owner != owner:
        return None
    ends = [number for number, each in enumerate(found.items, 1) if each.of == until]
    items = found.items[: ends[-1]] if until and ends else found.items
    return msgspec.json.encode([each.item for each in items])


async def _ended(store: ResponseStore, identity: str, owner: str, named: str) -> Ended:
    """Return a response that another can follow, the `named` one or one before it.

    Raise ApiError, Unavailable.
    """
    try:
        found, _ = await find(store, identity, owner, previous=True)
    except ApiError as error:
        if identity == named:
            raise
        raise _gone(f"Response '{identity}'", named) from error
    if isinstance(found, Ended) and found.status in _USABLE:
        return found
    status = found.status if isinstance(found, Ended) else "in progress"
    text = f"Previous response with id '{identity}' is {status}: it has no whole output."
    raise ApiError(400, text, param="previous_response_id", code="previous_response_not_usable")


async def find(
    store: ResponseStore, identity: str, owner: str, *, previous: bool = False
) -> tuple[Ended | Asked, bool]:
    """Return what is known of an owner's response: its end, or else what was asked of it.

    Also return whether anything but that is stored. Raise ApiError 404, Unavailable.
    """
    if not responses.is_id(identity):
        raise no_response(identity, previous=previous)
    last, seq = await store.last(identity)
    found: Ended | Asked | None = last if isinstance(last, Ended) else None
    if found is None:
        found = await store.asked(identity)
    if found is None or found.head.owner != owner:
        raise no_response(identity, previous=previous)
    return found, bool(seq)


async def keep_turn(store: ResponseStore, ended: Ended) -> None:
    """Add a turn to the conversation that it belongs to, once. Raise TooLarge, Unavailable.

    A conversation that was deleted meanwhile stays so.
    """
    head = ended.head
    if not head.conversation or ended.status not in _USABLE:
        return
    output = of_output(msgspec.json.decode(ended.response))
    said = [*listed(bytes(head.items), head.id), *output]
    new = [ConversationItem(Raw(msgspec.json.encode(item)), head.id) for item in said]
    while True:
        found, seq = await store.conversation(head.conversation)
        if found is None or any(each.of == head.id for each in found.items):
            return
        grown = msgspec.structs.replace(found, items=[*found.items, *new])
        if await store.put_conversation(grown, seq):
            return


async def begin(
    store: ResponseStore, turn: Turn, request: Request, key: bytes | None, original: bytes
) -> str:
    """Have a response made by a worker, and return its id: an earlier one's for a repeated key.

    `key`: the client's `Idempotency-Key`. Raise ApiError.
    """
    head = turn.head
    try:
        if key:
            head = await _first(store, head, key, original)
            last, _ = await store.last(head.id)
            if isinstance(last, Deleted):
                raise no_response(head.id)
        seed = int.from_bytes(os.urandom(4))
        body = responses.repeatable(responses.renamed_id(turn.body, head.id), seed)
        asked = Asked(
            head=head,
            body=Raw(body),
            response=Raw(msgspec.json.encode(responses.queued(body, head))),
            user=request.user,
            priority=request.priority,
            timeout=request.timeout,
            fields=request.fields,
            query=request.query,
            caller_ids=request.caller_ids,
        )
        await store.ask(asked)
    except TooLarge as error:
        raise too_large(error, "this request") from error
    except Unavailable as error:
        raise unavailable(f"the response can't be stored now: {error}") from error
    return head.id


async def _first(store: ResponseStore, head: Head, key: bytes, original: bytes) -> Head:
    """Return the head of the first request with a key. Raise ApiError, Unavailable."""
    slot = hashlib.blake2b(f"{head.owner}\n".encode() + key, digest_size=16).hexdigest()
    fingerprint = hashlib.blake2b(original, digest_size=16).hexdigest()
    first = await store.take_key(slot, Key(id=head.id, fingerprint=fingerprint))
    if first.fingerprint != fingerprint:
        text = "this Idempotency-Key was used for another request"
        raise ApiError(422, text, code="idempotency_key_reused")
    return msgspec.structs.replace(head, id=first.id)


def new_conversation(identity: str, owner: str, metadata: Raw, items: list[Raw]) -> Conversation:
    """Return a conversation that begins now."""
    return Conversation(
        id=identity,
        owner=owner,
        created=int(time.time()),
        metadata=metadata,
        items=[ConversationItem(item) for item in items],
    )


async def give_made(
    store: ResponseStore,
    made: tuple[Turn, Request, bytes, bytes],
    receive: Receive,
    send: Send,
    *,
    stream: bool,
) -> None:
    """Have a response made by a worker, and answer: at once, with its stream, or with its end.

    `made`: as `begin` takes it. Raise ApiError.
    """
    turn = made[0]
    identity = await begin(store, *made)
    try:
        asked = await store.asked(identity)
        at_once = turn.wishes.background and not stream
        last = (await store.last(identity))[0] if at_once else None
    except Unavailable as error:
        raise unavailable(f"the response can't be read now: {error}") from error
    if asked is None:
        raise no_response(identity)
    if at_once:
        now = last.response if isinstance(last, Ended) else asked.response
        source: Whole | Followed = Whole(identity.removeprefix(responses.PREFIX), now)
        await relay(source, receive, send, dialect="responses")
        return
    source = Followed(store, asked, stream=stream)
    try:
        await relay(source, receive, send, stream=stream, dialect="responses")
    finally:
        await source.close()
