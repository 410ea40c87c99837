"""Whatever follows the log ends when it is told to, at whatever moment that is."""

import asyncio

import pytest

from nebula.actors.actor import cancel
from nebula.store.connection import Connection
from nebula.store.log_messages import entry_of
from nebula.store.tail import Tail

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turns", range(6))
async def test_a_reader_is_cancelled_also_in_the_moment_in_which_something_arrives(
    turns: int,
) -> None:
    tail = Tail(Connection("nats://nowhere", "test"), 0, entry_of)
    tail._stale = False  # it has its consumer

    async def follow() -> None:
        while True:
            await tail.next()

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.01)
    tail._arrived.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait((following,), timeout=1)
    assert following.cancelled()


async def test_tasks_that_have_ended_or_fail_while_they_end_do_not_matter() -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fails())
    await asyncio.sleep(0.01)
    await cancel([done, failing])
    await cancel([])
    assert done.done()
    assert isinstance(failing.exception(), ValueError)
