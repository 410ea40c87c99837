"""A line to /v1/responses: its request with what comes before it, and its response stored once.

The id of its response follows from its batch and its number: a line that is sent again finds the
response that was stored before, and adds no second turn to a conversation.
"""

import hashlib
import logging

import msgspec
from msgspec import Raw

from nebula.events.batch import Batch
from nebula.events.reading import decoded
from nebula.events.stored_responses import Ended
from nebula.http.errors import ApiError
from nebula.http.responses.turns import Turn, keep_turn, read_turn
from nebula.openai import responses
from nebula.store.responses import ResponseStore, TooLarge

log = logging.getLogger(__name__)


def line_id(batch: str, number: int) -> str:
    """Return what follows the prefix of a response's id: the same whenever its line is sent."""
    return hashlib.blake2b(f"{batch} {number}".encode(), digest_size=16).hexdigest()


async def read_line(
    store: ResponseStore, batch: Batch, identity: str, body: bytes, limit: int
) -> Turn:
    """Return a line's request with what comes before it.

    `identity`: from `line_id`. `limit`: bytes of the whole. Raise ApiError.
    """
    turn = await read_turn(store, body, batch.request.owner, identity, limit)
    if turn.wishes.background:
        text = "background can't be set in a batch: no client waits for its lines"
        raise ApiError(400, text, param="background")
    if turn.wishes.conversation and not turn.wishes.store:
        # only from a stored response a line that is sent again knows that it has had its turn
        text = "in a batch, a response of a conversation must be stored: leave `store` out"
        raise ApiError(400, text, param="store")
    return turn


async def found_before(store: ResponseStore, identity: str) -> bytes | None:
    """Return the response that was stored when a line was sent before. Raise Unavailable."""
    last, _ = await store.last(responses.PREFIX + identity)
    if not isinstance(last, Ended):
        return None
    await _keep_turn(store, last)
    return bytes(last.response)


async def keep(store: ResponseStore, turn: Turn, body: bytes) -> bytes:
    """Store an engine's response; return the response that counts: the first one stored.

    Raise Unavailable.
    """
    made = decoded(body, dict)
    if made is None:
        return body
    head, stored = turn.head, turn.stored
    ended = Ended(head=head, response=_written(responses.dressed(made, head, stored=stored)))
    try:
        first = not stored or await store.append(head.id, ended, 0) is not None
    except TooLarge as error:
        log.warning("response %s has more than %s bytes: it is not stored", head.id, error)
        ended = Ended(head=head, response=_written(responses.dressed(made, head, stored=False)))
        first = True
    if not first:
        last, _ = await store.last(head.id)
        ended = last if isinstance(last, Ended) else ended  # else it was deleted meanwhile
    await _keep_turn(store, ended)
    return bytes(ended.response)


def _written(response: dict[str, object]) -> Raw:
    return Raw(msgspec.json.encode(response))


async def _keep_turn(store: ResponseStore, ended: Ended) -> None:
    try:
        await keep_turn(store, ended)
    except TooLarge as error:
        log.warning("response %s does not fit its conversation: %s", ended.head.id, error)
