"""The answer of an engine to a client that waits for it, stored before the client has its end."""

import logging
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from nebula.events.inference import Piece
from nebula.events.reading import decoded
from nebula.events.stored_responses import Ended, Event, Head
from nebula.http.relay import Source, error_of
from nebula.http.responses.turns import keep_turn
from nebula.openai.partial_output import PartialOutput
from nebula.openai.response_events import OPENING, TERMINAL, data_of, rewritten
from nebula.openai.responses import cancelled, dressed, failed
from nebula.openai.sse import EventSplitter
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore, TooLarge

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds for a finished response to be stored: its client is waiting."""


class Recorded:
    """A source whose response is stored, if it is to be, and says so in its field `store`.

    `again`: the answer is an earlier request's, whose response has an id of its own.
    """

    def __init__(
        self,
        source: Source,
        store: ResponseStore,
        head: Head,
        *,
        stored: bool,
        again: bool = False,
    ) -> None:
        self._source = source
        self._again = again
        self._store = store
        self._head = head
        self._stored = stored
        self._splitter = EventSplitter()
        self._output = PartialOutput()
        self._shown: dict[str, Any] | None = None
        self._first: Piece | None = None
        self._body = b""
        self._refused = False

    @property
    def id(self) -> str:
        """The request's id."""
        return self._source.id

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self._source.streaming

    def nudge(self) -> None:
        """Let a waiting `next` raise Quiet."""
        self._source.nudge()

    def leave(self) -> None:
        """Note that the client has disconnected."""
        self._source.leave()

    async def next(self) -> Piece:
        """Return the next piece. Raise as the source does."""
        while True:
            piece = await self._source.next()
            if piece.status:
                self._refused = piece.status != 200
            if piece.failure or self._refused:
                if piece.failure:
                    await self._break_off(str(error_of(piece)))
                return piece
            if self._source.streaming:
                body = await self._events(piece)
                if piece.end:
                    await self._break_off("the engine ended its stream before the response")
                if body or piece.status or piece.end:
                    return replace(piece, body=body)
                continue
            self._first = self._first or piece
            self._body += piece.body
            if piece.end:
                return replace(self._first, body=await self._whole(), end=True)

    async def close(self) -> None:
        """Store what there is of a response that its client has left, if it knows its id."""
        if (shown := self._shown) is not None:
            self._shown = None
            await self._keep(cancelled(shown, self._output.items()))

    async def _break_off(self, why: str) -> None:
        """Store a response that was begun and will not be finished."""
        if (shown := self._shown) is not None:
            self._shown = None
            begun = {**shown, "output": self._output.items()}
            await self._keep(failed(begun, why, clients_fault=False))

    async def _events(self, piece: Piece) -> bytes:
        given = []
        for event in self._splitter.feed(piece.body):
            data = data_of(event) if self._stored or b'"response":' in event else None
            response = data.get("response") if data is not None else None
            if data is None or not isinstance(response, dict):
                given.append(event)
                if data is not None:
                    await self._take(data)
                continue
            kind = data["type"]
            if kind in TERMINAL:
                self._shown = None
                given.append(rewritten(event, {**data, "response": await self._record(response)}))
            elif kind in OPENING:
                dress = self._dressed(response)
                self._shown = dress if self._stored else None
                given.append(rewritten(event, {**data, "response": dress}))
            else:
                given.append(event)
        return b"".join(given) + (self._splitter.flush() if piece.end else b"")

    async def _take(self, event: Event) -> None:
        """Note what an event adds to the output."""
        if event["type"] == "error":
            await self._break_off(str(event.get("message")))
        else:
            self._output.take(event)

    async def _whole(self) -> bytes:
        response = decoded(self._body, dict)
        return self._body if response is None else msgspec.json.encode(await self._record(response))

    async def _record(self, response: dict[str, Any]) -> dict[str, Any]:
        """Store a response; return what the client gets of it."""
        dress = self._dressed(response)
        ended = Ended(head=self._head, response=Raw(msgspec.json.encode(dress)))
        if self._stored and not await self._append(ended):
            return dressed(response, self._head, stored=False)
        try:
            await keep_turn(self._store, ended)
        except (Unavailable, TooLarge) as error:
            log.warning("response %s is not in its conversation: %s", self._head.id, error)
        return dress

    def _dressed(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return a response as its client gets it, unless it can't be stored.

        What is not stored has its engine's time, which is the same whenever it is given again.
        """
        if not self._stored and isinstance(created := response.get("created_at"), int):
            self._head = replace(self._head, created=created)
        if self._again and isinstance(identity := response.get("id"), str):
            self._head = replace(self._head, id=identity)
        return dressed(response, self._head, stored=self._stored)

    async def _keep(self, response: dict[str, Any]) -> bool:
        """Store a response; return whether it could be stored."""
        return await self._append(
            Ended(head=self._head, response=Raw(msgspec.json.encode(response)))
        )

    async def _append(self, ended: Ended) -> bool:
        try:
            await self._store.append(self._head.id, ended, 0, patience=PATIENCE)
        except (Unavailable, TooLarge) as error:
            log.warning("response %s could not be stored: %s", self._head.id, error)
            return False
        return True
