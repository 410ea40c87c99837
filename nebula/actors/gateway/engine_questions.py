"""Engines' questions which of their requests are still wanted, and what they are told."""

import contextlib
from collections.abc import Callable

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.attribution import is_inbox
from nebula.events import subjects
from nebula.events.inference import StillWanted, Unwanted
from nebula.events.reading import decoded
from nebula.store.connection import Connection


class EngineQuestions:
    """Replies to engines for the gateway `identity`.

    `unwanted`: returns which of the requests in a question are no longer wanted.
    """

    def __init__(
        self,
        connection: Connection,
        identity: str,
        unwanted: Callable[[StillWanted], dict[str, int]],
    ) -> None:
        self._connection = connection
        self._gateway = identity
        self._unwanted = unwanted

    async def listen(self) -> None:
        """Answer engines that ask."""
        await self._connection.client.subscribe(
            subjects.waiting(self._gateway), cb=self._on_question
        )

    async def _on_question(self, message: Msg) -> None:
        asking = decoded(message.data, StillWanted)
        if asking is None or not is_inbox(message.reply):
            return
        unwanted = self._unwanted(asking)
        if unwanted:
            with contextlib.suppress(NatsError):
                said = msgspec.json.encode(Unwanted(unwanted))
                self._connection.client.post(message.reply, b"", said)
