"""An answer that is recorded: an id that its client has seen leads to what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from nebula.actors.gateway.delivery import ClientGone
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.events.stored_responses import Ended, Head
from nebula.http.responses.recording import Recorded
from nebula.openai.response_events import data_of, written
from nebula.store.connection import Unavailable

pytestmark = pytest.mark.anyio

HEAD = Head(id="resp_1", owner="", created=7)
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
CREATED: dict[str, Any] = {
    "type": "response.created",
    "response": {"id": "x", "status": "in_progress"},
}
ADDED: dict[str, Any] = {"type": "response.output_item.added", "output_index": 0, "item": ITEM}
DELTAS: list[dict[str, Any]] = [
    {"type": "response.output_text.delta", "output_index": 0, "delta": text}
    for text in ("one", " two")
]
COMPLETED: dict[str, Any] = {
    "type": "response.completed",
    "response": {"id": "x", "status": "completed", "output": []},
}
BEGUN = [CREATED, ADDED, *DELTAS]


class Engine:
    """A source with the events of a stream, then a last piece, or a client that has left."""

    id = "1"
    streaming = True

    def __init__(self, events: Sequence[dict[str, Any]], last: Piece | None) -> None:
        first = Piece(0, b"", status=200, content_type="text/event-stream")
        self.pieces = [first, *(Piece(0, written(each)) for each in events)]
        if last is not None:
            self.pieces.append(last)

    async def next(self) -> Piece:
        if not self.pieces:
            raise ClientGone
        return self.pieces.pop(0)

    def nudge(self) -> None: ...

    def leave(self) -> None: ...


class Store:
    def __init__(self, reachable: bool = True) -> None:
        self.kept: list[Ended] = []
        self.reachable = reachable

    async def append(self, identity: str, entry: Ended, after: int, *, patience: float) -> int:
        if not self.reachable:
            raise Unavailable("no NATS")
        assert (identity, after) == (HEAD.id, 0)
        self.kept.append(entry)
        return 1


async def recorded(
    events: Sequence[dict[str, Any]], last: Piece | None, store: Store, *, stored: bool = True
) -> list[int]:
    """Read an answer to its end; return how many responses were kept after each piece."""
    source = Recorded(Engine(events, last), cast("Any", store), HEAD, stored=stored)
    kept = []
    try:
        while True:
            piece = await source.next()
            kept.append(len(store.kept))
            if piece.end or piece.failure:
                break
    except ClientGone:
        pass
    await source.close()
    return kept


def response_of(store: Store) -> dict[str, Any]:
    (ended,) = store.kept
    response: dict[str, Any] = msgspec.json.decode(ended.response)
    return response


def text_of(response: dict[str, Any]) -> str:
    (item,) = response["output"]
    assert item["status"] == "incomplete"
    return "".join(part["text"] for part in item["content"])


async def test_what_its_client_leaves_is_kept_as_cancelled_with_what_was_made() -> None:
    store = Store()
    assert set(await recorded(BEGUN, None, store)) == {0}
    response = response_of(store)
    assert (response["id"], response["status"], response["store"]) == ("resp_1", "cancelled", True)
    assert text_of(response) == "one two"


async def test_what_was_never_shown_is_not_kept() -> None:
    store = Store()
    await recorded([], None, store)
    await recorded(BEGUN, None, store, stored=False)
    assert store.kept == []


async def test_a_finished_response_is_kept_once() -> None:
    store = Store()
    await recorded([*BEGUN, COMPLETED], None, store)
    assert response_of(store)["status"] == "completed"


@pytest.mark.parametrize(
    ("events", "last", "said"),
    [
        (BEGUN, Piece(0, b"", failure=Failure.ENGINE_TIMED_OUT), ""),
        (BEGUN, Piece(0, b"", end=True), "ended its stream before the response"),
        ([*BEGUN, {"type": "error", "message": "out of words"}], None, "out of words"),
    ],
)
async def test_what_breaks_off_is_kept_as_failed_before_its_client_is_told(
    events: list[dict[str, Any]], last: Piece | None, said: str
) -> None:
    store = Store()
    assert (await recorded(events, last, store))[-1] == 1
    response = response_of(store)
    assert response["status"] == "failed"
    assert said in response["error"]["message"]
    assert response["error"]["message"]
    assert text_of(response) == "one two"


async def test_what_can_t_be_kept_ends_as_it_would() -> None:
    await recorded(BEGUN, None, Store(reachable=False))
    await recorded(BEGUN, Piece(0, b"", end=True), Store(reachable=False))


async def test_a_repeated_answer_keeps_the_id_and_the_time_of_the_first() -> None:
    event = {**COMPLETED, "response": {**COMPLETED["response"], "id": "resp_0", "created_at": 5}}
    source = Recorded(Engine([event], None), cast("Any", Store()), HEAD, stored=False, again=True)
    await source.next()
    given = data_of((await source.next()).body)
    assert given is not None
    response = given["response"]
    assert (response["id"], response["created_at"], response["store"]) == ("resp_0", 5, False)
