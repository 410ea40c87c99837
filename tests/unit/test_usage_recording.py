"""The shell that stores usage records, in virtual time."""

import asyncio
from typing import Any, cast

from nebula.actors.gateway.usage_recording import UsageRecorder
from nebula.events.usage import UsageRecord, UsageRecords
from tests.simulation.virtual_loop import run


class Slow:
    """A store that takes a second for each message."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def open(self) -> None:
        return None

    async def store(self, _: str, __: str, records: UsageRecords, after: int) -> int:
        await asyncio.sleep(1)
        self.ids += [each.id for each in records.records]
        return after + 1

    async def store_once(self, record: UsageRecord) -> None:
        await asyncio.sleep(1)
        self.ids.append(record.id)


def test_a_record_that_comes_while_others_are_stored_does_not_wait_for_the_next() -> None:
    store = Slow()

    async def record() -> None:
        recorder = UsageRecorder(cast("Any", None), "g", 1, cast("Any", None))
        recorder.store = cast("Any", store)
        running = asyncio.create_task(recorder.run())
        recorder.add(UsageRecord("one", 0, "k", "m", "/"))
        await asyncio.sleep(0.7)
        recorder.add(UsageRecord("two", 0, "k", "m", "/"), alone=True)
        await asyncio.sleep(60)
        assert store.ids == ["one", "two"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(record())
