"""The folded state as it grows: no waiter for a change misses one."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from nebula.actors.projection import NewerCluster, Projection
from nebula.events import record
from nebula.events.folding import Folding
from nebula.events.record import Record
from nebula.events.state import State
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


class Batches(Log):
    """A log whose batches are there as soon as it is followed."""

    def __init__(self, *batches: list[Record]) -> None:
        self.batches = batches

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        for batch in self.batches:
            yield batch
        await asyncio.Event().wait()


def loads(first: int, last: int) -> list[Record]:
    subjects = {seq: f"nebula.events.model.m{seq}.ModelLoadRequested" for seq in range(1, last + 1)}
    return [
        record.read(seq, seq, subjects[seq], b'{"source": "s"}') for seq in range(first, last + 1)
    ]


async def test_a_state_is_made_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def state(folding: Folding) -> State:
        made.append(folding.seq)
        return whole(folding)

    whole = Folding.state
    monkeypatch.setattr(Folding, "state", state)
    projection = Projection(Batches(loads(1, 3), loads(4, 5), loads(6, 9)))
    following = asyncio.create_task(projection.run())
    assert await asyncio.wait_for(projection.reached(9), 1)
    assert (made, projection.seq) == ([], 9)
    assert sorted(projection.state.models) == [f"m{seq}" for seq in range(1, 10)]
    assert projection.state is projection.state
    assert made == [9]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_listener_gets_an_entry_before_it_is_folded() -> None:
    projection = Projection(Batches(loads(1, 3), loads(4, 5)))
    seen: list[tuple[int, int]] = []
    projection.listen(lambda each: seen.append((each.seq, projection.state.seq)))
    following = asyncio.create_task(projection.run())
    assert await asyncio.wait_for(projection.reached(5), 1)
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 3), (5, 3)]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_was_seen_last_stays_when_a_newer_cluster_s_log_is_not_followed() -> None:
    newer = record.read(
        4, 4, "nebula.events.cluster.lab.ClusterFounded", b'{"name": "lab", "version": 999}'
    )
    projection = Projection(Batches(loads(1, 2), loads(3, 3), [newer]))
    seen: list[State] = []
    projection.listen(lambda each: seen.append(projection.state) if each.seq == 3 else None)
    with pytest.raises(NewerCluster):
        await projection.run()
    assert [state.seq for state in seen] == [2]
    assert projection.state is seen[0]
    assert projection.seq == 2
