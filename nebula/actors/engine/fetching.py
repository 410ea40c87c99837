"""Fetches the body of a request that does not carry it from its gateway, part by part."""

import asyncio
from itertools import count
from typing import TypeAlias

import msgspec
from nats.errors import Error as NatsError

from nebula.events import envelope, subjects
from nebula.events.inference import BodyWanted, Request
from nebula.events.reading import last_token
from nebula.store.connection import Connection

PART_PATIENCE = 10.0
"""Seconds within which a gateway must answer with a part."""

TRIES = 3
"""How often a part is asked for: a message may be lost when NATS is."""

_Answer: TypeAlias = asyncio.Future[tuple[bytes, bytes] | None]
"""The header block and the body of an answer; None if NATS was lost."""

_NOBODY = b"NATS/1.0 503"
"""The beginning of the header block with which NATS itself answers if no one listens."""


class BodyLost(Exception):
    """A body can't be fetched: its gateway is gone, or does not want the attempt any more."""


class BodyFetcher:
    """Asks gateways for bodies; each question has an inbox of its own, as NATS's roles demand."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = ""
        self._numbers = count()
        self._waiting: dict[str, _Answer] = {}

    async def listen(self) -> None:
        """Listen for answers. Raise nats-py's errors."""
        client = self._connection.client
        self._inbox = client.new_inbox()
        await client.listen(f"{self._inbox}.*", self._on_part)
        self._connection.on_reconnect(self._on_reconnect)

    async def fetch(self, request: Request) -> bytes:
        """Return the body of a request. Raise BodyLost."""
        parts: list[bytes] = []
        got = 0
        room = self._connection.max_body - envelope.HEADER_ROOM
        while got < request.size:
            size = min(room, request.size - got)
            part = await self._part(
                request.gateway, BodyWanted(request.id, request.attempt, got, size)
            )
            if not part:
                raise BodyLost(f"its gateway has {got} bytes of it, and not {request.size}")
            parts.append(part)
            got += len(part)
        if got > request.size:
            raise BodyLost(f"its gateway sent more than {request.size} bytes of it")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _part(self, gateway: str, wanted: BodyWanted) -> bytes:
        question, subject = msgspec.json.encode(wanted), subjects.bodies(gateway)
        for _ in range(TRIES):
            try:
                header, part = await self._answer(subject, question)
            except (NatsError, TimeoutError) as error:
                failure = f"its gateway does not answer: {error or type(error).__name__}"
                continue
            if header.startswith(_NOBODY):
                raise BodyLost("its gateway is gone")
            if header:
                raise BodyLost("its gateway does not want it any more")
            return part
        raise BodyLost(failure)

    async def _answer(self, subject: str, question: bytes) -> tuple[bytes, bytes]:
        """Return the header block and the body of a gateway's answer.

        What was under way when NATS was lost is asked for again. Raise NatsError, TimeoutError.
        """
        while True:
            number = str(next(self._numbers))
            waiting: _Answer = asyncio.get_running_loop().create_future()
            self._waiting[number] = waiting
            try:
                self._connection.client.ask(subject, f"{self._inbox}.{number}", question)
                async with asyncio.timeout(PART_PATIENCE):
                    answer = await waiting
            finally:
                del self._waiting[number]
            if answer is not None:
                return answer

    def _on_part(self, subject: bytes, header: bytes, part: bytes) -> None:
        waiting = self._waiting.get(last_token(subject))
        if waiting is not None and not waiting.done():
            waiting.set_result((header, part))

    async def _on_reconnect(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
