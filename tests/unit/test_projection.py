"""The folded state as it grows: no waiter for a change misses one."""

import asyncio
from collections.abc import AsyncGenerator

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

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        yield [record.read(1, 1, "nebula.events.model.m.ModelLoadRequested", b'{"source": "s"}')]
        await asyncio.Event().wait()


class Replaced(Log):
    """A log that turns out to be another one."""

    def __init__(self) -> None:
        pass

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        raise LogReplaced("made anew")
        yield []


async def test_a_waiter_for_a_change_learns_that_none_will_come() -> None:
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


class Refused(Log):
    """A log of which nothing makes sense, answered in the same breath."""

    def __init__(self) -> None:
        pass

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        bad = "nebula.events.model.m.ModelScaleRequested"
        answer = "nebula.events.log.1.EventRejected"
        yield [
            record.read(1, 1, bad, b'{"replicas": 1}'),
            record.read(2, 2, answer, b'{"subject": "", "reason": "no"}'),
            *(record.read(seq, seq, bad, b'{"replicas": 1}') for seq in range(3, 2000)),
        ]
        await asyncio.Event().wait()


async def test_the_writer_of_a_rejected_entry_learns_why_even_after_a_router_has_answered() -> None:
    projection = Projection(Refused())
    following = asyncio.create_task(projection.run())
    await asyncio.wait_for(projection.reached(1), 1)
    assert 1 not in projection.state.rejections
    assert projection.refusal(1999) == "there is no model 'm'"
    assert projection.refusal(2) is None
    assert projection.refusal(1) is None  # of so many, the last ones are remembered
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
