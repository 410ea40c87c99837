"""What is stored of responses and conversations: the messages of one stream. Pure.

A response is a run of messages on a subject of its own. A response that a client waited for is a
single `Ended`. A response in the background begins with `Asked`, on another subject, from which a
worker takes it; `Began`, `Progress` and `Broke` follow, and an `Ended`, after which nothing counts.
`Deleted` takes the place of all of them. A conversation is one message that is replaced.

A writer names the last message that it has read, and the stream refuses its own if there is a later
one. So only one worker at a time can write, and one that was paused can do no harm.
"""

from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from nebula.events.inference import HeaderFields
from nebula.events.reading import decoded

Event: TypeAlias = dict[str, Any]
"""The data of an event of a response's stream."""

NO_ITEMS = Raw(b"[]")


class Head(Struct, frozen=True, kw_only=True):
    """Whose response it is, and what it was asked with.

    `items`: its own input items. `previous`, `conversation`: what comes before them, "" for none.
    `created`: seconds since the epoch.
    """

    id: str
    owner: str
    created: int
    items: Raw = NO_ITEMS
    previous: str = ""
    conversation: str = ""
    background: bool = False


class Asked(Struct, frozen=True, kw_only=True, tag="asked"):
    """A response that workers are to make.

    `body`: of the request to the engine, with all that comes before. `response`: the response as
    it is shown while it is queued. `user`, `priority` and `caller_ids` are the request's.
    """

    head: Head
    body: Raw
    response: Raw
    user: str = ""
    priority: int = 0
    timeout: float | None = None
    fields: HeaderFields = ()
    query: str = ""
    caller_ids: tuple[str, ...] = ()


class Began(Struct, frozen=True, kw_only=True, tag="began"):
    """A worker has an engine's answer. `writer`: a text of this attempt's own."""

    attempt: int
    writer: str


class Progress(Struct, frozen=True, kw_only=True, tag="progress"):
    """Events of the stream, from number `first` on.

    `section`: the number of the event with which the answer begins that they belong to.
    """

    attempt: int
    writer: str
    first: int
    section: int
    events: list[Event]


class Broke(Struct, frozen=True, kw_only=True, tag="broke"):
    """An engine has not finished the answer, and why: it is asked again."""

    attempt: int
    writer: str
    why: str


class Ended(Struct, frozen=True, kw_only=True, tag="ended"):
    """The response is over. `events`: the last ones of its stream, from number `first` on.

    `http_status` and `error`: what a client gets that waits for it without a stream, if it failed.
    """

    head: Head
    response: Raw
    attempt: int = 0
    writer: str = ""
    first: int = 0
    events: list[Event] = []
    http_status: int = 200
    error: Raw = Raw(b"null")

    @property
    def status(self) -> str:
        """Its status in words of OpenAI's."""
        return msgspec.json.decode(self.response, type=_Status).status


class Deleted(Struct, frozen=True, tag="deleted"):
    """Its owner has deleted it."""


class _Status(Struct):
    status: str = ""


Entry: TypeAlias = Asked | Began | Progress | Broke | Ended | Deleted

_entries = msgspec.json.Decoder(Entry)


class ConversationItem(Struct, frozen=True):
    """An item of a conversation. `of`: the response that it came with, "" for none."""

    item: Raw
    of: str = ""


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation with all its items."""

    id: str
    owner: str
    created: int
    metadata: Raw = Raw(b"{}")
    items: list[ConversationItem] = []
    deleted: bool = False


class Key(Struct, frozen=True, kw_only=True):
    """The response that an `Idempotency-Key` stands for, and a hash of what was asked."""

    id: str
    fingerprint: str


def read(body: bytes) -> Entry | None:
    """Return the entry in a message; None if it is not valid."""
    return decoded(body, Entry)  # type: ignore[arg-type]
