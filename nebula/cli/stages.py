"""Reports which stage starting engines have reached, from the last lines of their logs."""

import asyncio
import contextlib
import re

import msgspec
from nats.errors import Error as NatsError

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.plain_text import one_line
from nebula.events.reading import decoded
from nebula.events.showing import shown_text
from nebula.events.state import Replica

EVERY = 2.0
"""Seconds between two looks at the logs."""

ANSWER = 2.0
"""Seconds that a node gets to read a log."""

LINES = 10
"""Number of last lines of a log that are read."""

LONGEST = 90
"""Longest stage, in characters."""

_BEFORE = re.compile(
    r"^(?:\([^()]*pid=\d+\)\s*)?"
    r"(?:(?:DEBUG|INFO|WARNING|ERROR)\s+[\d-]+ [\d:.]+ \[[^\]]*\]\s*|(?:INFO|WARNING):\s+)?"
)
"""The prefix of a line of the logs of vLLM (0.32) and uvicorn."""


def stage(lines: list[str]) -> str:
    """Return the last line of an engine's log, without its prefix; "" if there is none."""
    for line in reversed(lines):
        words = _BEFORE.sub("", shown_text(line.rpartition("\r")[2])).strip()
        if words and any(map(str.isalpha, words)) and not words.startswith("nebula: "):
            return one_line(words, LONGEST)
    return ""


class Stages:
    """Asks nodes for the stages of engines, while it is used as a context manager."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._known: dict[str, str] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Stages":
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._asking is not None
        self._asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._asking

    def of(self, model: str) -> str:
        """Return the stage of a model's starting engine; "" if none is known."""
        known = self._projection.state.models.get(model)
        starting = [each.id for each in self._starting() if known and each.id in known.replicas]
        return next((text for each in starting if (text := self._known.get(each))), "")

    def _starting(self) -> list[Replica]:
        replicas = self._projection.state.replicas.values()
        return [each for each in replicas if each.phase == "starting" and not each.retired]

    async def _ask(self) -> None:
        while True:
            for replica in self._starting():
                self._known[replica.id] = await self._of(replica)
            await asyncio.sleep(EVERY)

    async def _of(self, replica: Replica) -> str:
        request = msgspec.json.encode(LogRequest(replica.id, LINES))
        client = self._projection.log.connection.client
        try:
            answer = await client.request(subjects.logs(replica.node), request, timeout=ANSWER)
        except (NatsError, TimeoutError):
            return ""
        reply = decoded(answer.data, LogReply)
        return stage(reply.text.splitlines()) if reply is not None else ""
