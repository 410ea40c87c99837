"""The folded state as it grows: nobody who waits for a change misses one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from nebula.actors.projection import Projection
from nebula.events import record
from nebula.events.record import Record
from nebula.store.log import Log
from nebula.store.tail import LogReplaced

pytestmark = pytest.mark.anyio


class OneEvent(Log):
    """A log that holds one event, which is there as soon as it is followed."""

    def __init__(self) -> None:
        pass

    async def follow(self, after: int = 0) -> AsyncIterator[list[Record]]:
        yield [record.read(1, 1, "nebula.events.model.m.ModelLoadRequested", b'{"source": "s"}')]
        await asyncio.Event().wait()


class Replaced(Log):
    """A log that turns out to be another one."""

    def __init__(self) -> None:
        pass

    async def follow(self, after: int = 0) -> AsyncIterator[list[Record]]:
        raise LogReplaced("made anew")
        yield []


async def test_whoever_waits_for_a_change_learns_that_none_will_come() -> None:
    projection = Projection(Replaced())
    waiting = asyncio.ensure_future(projection.changed())
    with pytest.raises(LogReplaced):
        await projection.run()
    for waits in (waiting, projection.changed(), projection.reached(1)):
        with pytest.raises(LogReplaced):
            await asyncio.wait_for(waits, 1)


async def test_a_change_between_the_call_and_the_wait_is_not_missed() -> None:
    projection = Projection(OneEvent())
    following = asyncio.create_task(projection.run())
    waiting = asyncio.ensure_future(projection.changed())  # its first step comes after the fold
    await asyncio.wait_for(waiting, 1)
    assert projection.state.seq == 1
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
