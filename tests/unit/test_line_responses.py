"""A line to /v1/responses that is sent twice: one response is stored, and one turn is added."""

from typing import Any, cast

import msgspec
import pytest
from msgspec import Raw

from nebula.events.batch import Batch
from nebula.events.intents import BatchRequested
from nebula.events.stored_responses import Conversation, Ended, Entry, Head
from nebula.http.batches import line_responses
from nebula.http.errors import ApiError
from nebula.http.responses.turns import Turn
from nebula.openai.responses import PREFIX, Wishes
from nebula.store.connection import Unavailable

pytestmark = pytest.mark.anyio

LINE, CONVERSATION = line_responses.line_id("batch_1", 7), "conv_1"
HEAD = Head(
    id=PREFIX + LINE,
    owner="mine",
    created=1,
    items=Raw(b'[{"role": "user", "content": "Hi"}]'),
    conversation=CONVERSATION,
)
TURN = Turn(wishes=Wishes(conversation=CONVERSATION), head=HEAD, body=b"{}", stored=True)


def made(text: str) -> bytes:
    part = {"type": "output_text", "text": text}
    item = {"type": "message", "role": "assistant", "content": [part]}
    return msgspec.json.encode({"id": "x", "status": "completed", "output": [item]})


class Store:
    """Responses and one conversation in memory, of which the latter may be out of reach."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.talk = Conversation(id=CONVERSATION, owner="mine", created=1)
        self.reachable = True

    async def append(self, identity: str, entry: Entry, after: int) -> int | None:
        if identity in self.entries:
            return None
        self.entries[identity] = entry
        return 1

    async def last(self, identity: str) -> tuple[Entry | None, int]:
        return self.entries.get(identity), int(identity in self.entries)

    async def conversation(self, _: str) -> tuple[Conversation, int]:
        return self.talk, 1

    async def put_conversation(self, grown: Conversation, _: int) -> bool:
        if not self.reachable:
            raise Unavailable("no NATS")
        self.talk = grown
        return True


def as_text(body: bytes) -> str:
    read: dict[str, Any] = msgspec.json.decode(body)
    return str(read["output"][0]["content"][0]["text"])


async def test_two_gateways_that_send_a_line_have_the_response_that_was_stored_first() -> None:
    store = Store()
    answers = [
        await line_responses.keep(cast("Any", store), TURN, made(text)) for text in ("one", "two")
    ]
    assert [as_text(each) for each in answers] == ["one", "one"]
    assert len(store.entries) == 1
    assert len(store.talk.items) == 2


async def test_a_line_that_is_sent_again_finds_its_response_and_adds_the_turn_that_is_missing() -> (
    None
):
    store = Store()
    assert await line_responses.found_before(cast("Any", store), LINE) is None
    store.reachable = False
    with pytest.raises(Unavailable):
        await line_responses.keep(cast("Any", store), TURN, made("one"))
    store.reachable = True
    for _ in range(2):
        found = await line_responses.found_before(cast("Any", store), LINE)
        assert found is not None
        assert as_text(found) == "one"
        assert isinstance(store.entries[HEAD.id], Ended)
        assert len(store.talk.items) == 2


async def test_a_turn_of_a_conversation_that_would_not_be_stored_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unstored = msgspec.structs.replace(
        TURN, stored=False, wishes=Wishes(store=False, conversation=CONVERSATION)
    )

    async def read_turn(*_: object) -> Turn:
        return unstored

    monkeypatch.setattr(line_responses, "read_turn", read_turn)
    batch = Batch(id="batch_1", request=BatchRequested("file-1", "/v1/responses"), created_ns=1)
    with pytest.raises(ApiError, match="must be stored") as caught:
        await line_responses.read_line(cast("Any", Store()), batch, LINE, b"{}", 100)
    assert caught.value.body.param == "store"
