"""Facts that wait for the log: in order, each once, and nothing waits for them."""

import asyncio
from collections.abc import Coroutine

import pytest

from nebula.actors.node import outbox
from nebula.actors.node.outbox import LATE, LONGEST, Outbox
from nebula.events.vocabulary import EngineFailed, EngineReady, EngineStarted, Event

pytestmark = pytest.mark.anyio


class Log:
    """A log that can be written only while it is `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.kept: list[tuple[str, Event, int | None]] = []
        self.ids: set[str] = set()
        self.clock = 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        self.outbox = Outbox(self.append, self.spawn, lambda: self.clock)

    async def append(self, identity: str, event: Event, cause: int | None, message_id: str) -> int:
        await self.open.wait()
        self.kept.append((identity, event, cause))
        self.ids.add(message_id)
        return len(self.kept)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        self.tasks.add(asyncio.create_task(work, name=name))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(outbox, "PATIENCE", 0.01)
    return Log()


def failed(number: int) -> EngineFailed:
    return EngineFailed("killed", -9, attempt=number)


async def test_a_log_that_can_be_written_has_a_fact_before_work_goes_on(log: Log) -> None:
    log.open.set()
    seqs: list[int] = []
    assert await log.outbox.tell("chat-0", failed(1), lambda: 7, seqs.append)
    assert log.kept == [("chat-0", failed(1), 7)]
    assert seqs == [1]
    assert len(log.outbox) == 0


async def test_what_the_log_does_not_take_holds_nothing_up_and_is_told_in_order(log: Log) -> None:
    last: list[int] = [3]
    facts: list[Event] = [failed(1), EngineStarted(9, 1.0, 8001, "/log", 1, 2), EngineReady()]
    for fact in facts:
        assert not await log.outbox.tell("chat-0", fact, lambda: last[-1], last.append)
    assert not await log.outbox.tell("other-0", EngineReady(), lambda: None)
    assert log.kept == []
    log.open.set()
    await log.outbox.emptied()
    assert [event for identity, event, _ in log.kept if identity == "chat-0"] == facts
    # Each is caused by what was told before it, whose sequence was not known until then.
    causes = [cause for identity, _, cause in log.kept if identity == "chat-0"]
    assert causes == last[: len(causes)]


async def test_what_waits_is_caused_by_what_waited_before_it_whichever_engine_did_it(
    log: Log,
) -> None:
    await log.outbox.tell("chat-0", failed(1), lambda: 1)
    started = EngineStarted(9, 1.0, 8001, "/log", 1, 2)
    await log.outbox.tell("chat-0", started, lambda: None)  # a new engine, with no cause of its own
    log.open.set()
    await log.outbox.emptied()
    assert [cause for *_, cause in log.kept] == [1, 1]


async def test_facts_of_several_replicas_are_told_each_once(log: Log) -> None:
    for replica in ("a-0", "b-0", "a-0", "c-0"):
        await log.outbox.tell(replica, EngineReady(), lambda: None)
    log.open.set()
    await log.outbox.emptied()
    assert len(log.ids) == len(log.kept) == 4


async def test_a_failure_that_is_told_late_says_how_late(log: Log) -> None:
    await log.outbox.tell("chat-0", EngineReady(), lambda: 1)  # the event that is being told
    await log.outbox.tell("chat-0", failed(1), lambda: 1)
    log.clock += LATE + 60
    log.open.set()
    await log.outbox.emptied()
    told = log.kept[1][1]
    assert isinstance(told, EngineFailed)
    assert told.reason == "killed (65 s before the log could be told)"


async def test_of_too_many_facts_the_oldest_are_dropped(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.0)
    for number in range(1, LONGEST + 11):
        await log.outbox.tell("chat-0", failed(number), lambda: None)
    assert len(log.outbox) == LONGEST
    log.open.set()
    await log.outbox.emptied()
    attempts = [event.attempt for _, event, _ in log.kept if isinstance(event, EngineFailed)]
    assert attempts == [1, *range(12, LONGEST + 11)]
