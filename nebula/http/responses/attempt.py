"""What one worker writes of one response: only as long as no other has written since it read."""

import msgspec
from msgspec import Raw

from nebula.events.stored_responses import Began, Broke, Ended, Entry, Event, Progress
from nebula.http.errors import ApiError
from nebula.openai import responses
from nebula.openai.repeated_run import RepeatedRun
from nebula.openai.stored_response import RUNNING, StoredResponse, fold
from nebula.store.responses import ResponseStore


class Overtaken(Exception):
    """Another worker has the response by now."""


class StoredEnd(Exception):
    """The response is over: it was cancelled or deleted, or another has made it."""


class Attempt:
    """An attempt at a response; `last` is the sequence of the last entry that was read.

    Each method raises Overtaken, StoredEnd, Unavailable, TooLarge.
    """

    def __init__(self, store: ResponseStore, found: StoredResponse, last: int, writer: str) -> None:
        self._store = store
        self._found = found
        self._last = last
        self._writer = writer
        self._number = found.attempt + 1
        self._begun = False
        self.run = self._new_run(found)

    def _new_run(self, found: StoredResponse) -> RepeatedRun:
        return RepeatedRun(found.head.id, found.events, found.section)

    async def begin(self) -> None:
        """Note that an engine answers, once."""
        if self._begun:
            return
        self._begun = True
        await self._write(Began(attempt=self._number, writer=self._writer))
        if self._found.response.get("status") != RUNNING:
            asked = self._found.asked
            began = fold([asked, Began(attempt=1, writer="")] if asked is not None else [])
            if began is not None and began.response.get("status") == RUNNING:
                self._found = began
                self.run = self._new_run(began)

    async def flush(self) -> None:
        """Store what is not stored yet."""
        run, added = self.run, self.run.added
        if not added:
            return
        progress = Progress(
            attempt=self._number,
            writer=self._writer,
            first=_first(run, added),
            section=run.section,
            events=added,
        )
        run.stored()
        await self._write(progress)

    async def broke(self, why: str) -> None:
        """Note that an engine has not finished it."""
        await self._write(Broke(attempt=self._number, writer=self._writer, why=why))

    async def finish(self, response: dict[str, object], kind: str) -> None:
        """Store the end as an engine tells it."""
        await self.flush()
        self.run.finish(responses.dressed(response, self._found.head, stored=True), kind)
        await self._end()

    async def fail(self, error: ApiError) -> None:
        """Store that the response has failed, and why."""
        faulty = error.status < 500
        response = responses.failed(self._found.response, str(error), clients_fault=faulty)
        self.run.close(response, "response.failed")
        await self._end(error)

    async def _end(self, error: ApiError | None = None) -> None:
        run, added = self.run, self.run.added
        await self._write(
            Ended(
                head=self._found.head,
                response=Raw(msgspec.json.encode(run.events[-1]["response"])),
                attempt=self._number,
                writer=self._writer,
                first=_first(run, added),
                events=added,
                http_status=200 if error is None else error.status,
                error=Raw(b"null" if error is None else error.payload),
            )
        )

    async def _write(self, entry: Entry) -> None:
        """Store an entry if no other has written meanwhile."""
        identity = self._found.head.id
        last = await self._store.append(identity, entry, self._last)
        if last is not None:
            self._last = last
            return
        entries, last = await self._store.entries(identity)
        asked = self._found.asked
        found = fold(([asked] if asked is not None else []) + entries)
        if found is None or found.ended is not None:
            raise StoredEnd
        if found.writer != self._writer or not entries or entries[-1] != entry:
            raise Overtaken
        self._last = last  # its own: only the acknowledgement was lost


def _first(run: RepeatedRun, added: list[Event]) -> int:
    return len(run.events) - len(added)
