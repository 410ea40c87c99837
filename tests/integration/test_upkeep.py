"""What NATS's own tools do to the streams while actors live: mended, or refused with words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig, StreamSource

from nebula.events import subjects
from nebula.events.intents import ModelScaleRequested
from nebula.store import streams, upkeep
from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.streams import StreamMismatch, definitions, differences
from nebula.store.upkeep import Upkeep
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
EVENTS, *IN_MEMORY = definitions()


@pytest.fixture
def jetstream(log: Log) -> JetStreamContext:
    return log.connection.client.jetstream(timeout=5)


@pytest.fixture
async def keeping(log: Log, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Task[None]]:
    """Run the upkeep as an actor does, without the periodic look: what is told is enough."""
    monkeypatch.setattr(upkeep, "SPREAD", 0.1)
    gone = asyncio.Event()
    task = asyncio.create_task(Upkeep(log.connection, 1, lambda: 1, lambda: False, gone.set).run())
    await asyncio.sleep(0)
    await log.connection.client.flush()
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def right(jetstream: JetStreamContext, wanted: StreamConfig) -> None:
    """Wait until a stream is there, and as it must be."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                found = (await jetstream.stream_info(wanted.name or "")).config
                if not differences(wanted, found) and found.allow_direct:
                    return
            except Exception:  # it is gone at this moment
                pass
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("wanted", IN_MEMORY, ids=lambda each: each.name)
async def test_a_stream_in_memory_that_is_deleted_is_made_again(
    jetstream: JetStreamContext, keeping: asyncio.Task[None], wanted: StreamConfig
) -> None:
    await jetstream.delete_stream(wanted.name or "")
    await right(jetstream, wanted)


@pytest.mark.parametrize("wanted", IN_MEMORY, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "change",
    [
        {"max_age": 7, "max_msgs": 3},
        {"subjects": ["other.>"]},
        {"sealed": True},
        {"max_msg_size": 10, "allow_direct": False},
        {"no_ack": None, "discard": "new"},
    ],
    ids=str,
)
async def test_one_that_is_changed_is_changed_back_or_made_again(
    jetstream: JetStreamContext,
    keeping: asyncio.Task[None],
    wanted: StreamConfig,
    change: dict[str, object],
) -> None:
    found = (await jetstream.stream_info(wanted.name or "")).config
    await jetstream.update_stream(replace(found, **change))  # type: ignore[arg-type]
    await right(jetstream, wanted)


@pytest.mark.parametrize(
    "instead",
    [
        {"storage": StorageType.FILE},
        {"subjects": None, "mirror": StreamSource(name=streams.EVENTS)},
        {"subjects": None, "sources": [StreamSource(name=streams.EVENTS)]},
    ],
    ids=str,
)
async def test_one_that_other_tools_have_made_otherwise_is_made_again(
    jetstream: JetStreamContext, keeping: asyncio.Task[None], instead: dict[str, object]
) -> None:
    wanted = IN_MEMORY[0]
    await jetstream.delete_stream(wanted.name or "")
    await jetstream.add_stream(replace(wanted, no_ack=False, **instead))  # type: ignore[arg-type]
    await right(jetstream, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"max_msgs": 1000},
        {"max_bytes": 10_000_000},
        {"max_age": 3600},
        {"subjects": ["nebula.events.model.>"]},
        {"duplicate_window": 1},
        {"no_ack": True, "allow_direct": False},
    ],
    ids=str,
)
async def test_a_log_that_was_changed_and_has_lost_nothing_is_changed_back(
    log: Log,
    jetstream: JetStreamContext,
    keeping: asyncio.Task[None],
    change: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await log.append("chat", ModelScaleRequested(1))
    found = (await jetstream.stream_info(streams.EVENTS)).config
    await jetstream.update_stream(replace(found, **change))  # type: ignore[arg-type]
    await right(jetstream, EVENTS)
    assert await log.append("chat", ModelScaleRequested(2)) == 2
    assert not keeping.done()
    async with asyncio.timeout(20):  # it is told after it is done
        while "NEBULA_EVENTS was changed from outside" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_log_that_has_lost_events_is_refused(
    log: Log, jetstream: JetStreamContext, keeping: asyncio.Task[None]
) -> None:
    for replicas in range(3):
        await log.append("chat", ModelScaleRequested(replicas))
    found = (await jetstream.stream_info(streams.EVENTS)).config
    await jetstream.update_stream(replace(found, max_msgs_per_subject=1, discard="old"))  # type: ignore[arg-type]
    with pytest.raises(StreamMismatch, match=r"the log has lost 2 of 3 events"):
        await asyncio.wait_for(keeping, PATIENCE)


async def test_a_sealed_log_is_refused(
    log: Log, jetstream: JetStreamContext, keeping: asyncio.Task[None]
) -> None:
    found = (await jetstream.stream_info(streams.EVENTS)).config
    await jetstream.update_stream(replace(found, sealed=True))
    with pytest.raises(StreamMismatch, match=r"was changed while it was used: .*sealed"):
        await asyncio.wait_for(keeping, PATIENCE)


async def test_a_change_without_an_advisory_is_found_by_looking(
    log: Log, jetstream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ADVISORIES", "nobody.tells")
    monkeypatch.setattr(upkeep, "LOOK", 0.3)
    task = asyncio.create_task(
        Upkeep(log.connection, 1, lambda: 1, lambda: False, lambda: None).run()
    )
    await jetstream.delete_stream(streams.CLAIMS)
    await right(jetstream, IN_MEMORY[-1])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_bucket_of_snapshots_that_is_gone_or_can_t_be_mended_is_told_of(
    log: Log, jetstream: JetStreamContext, connection: Connection
) -> None:
    gone = asyncio.Event()
    kept = Upkeep(connection, 1, lambda: 1, lambda: False, gone.set)
    await kept.look()
    assert gone.is_set()
    gone.clear()
    await jetstream.create_object_store("NEBULA_SNAPSHOTS")
    await kept.look()
    assert not gone.is_set()
    found = (await jetstream.stream_info("OBJ_NEBULA_SNAPSHOTS")).config
    await jetstream.update_stream(replace(found, sealed=True))
    await kept.look()
    assert gone.is_set()


async def test_beside_older_actors_the_claims_stay_as_those_need_them_and_none_is_lost(
    log: Log, jetstream: JetStreamContext, connection: Connection
) -> None:
    older = replace(IN_MEMORY[-1], discard=DiscardPolicy.OLD)
    await jetstream.delete_stream(streams.CLAIMS)
    await jetstream.add_stream(older)
    await jetstream.publish(subjects.claim("slot"), b"")
    beside_older = True
    kept = Upkeep(connection, 1, lambda: 1, lambda: beside_older, lambda: None)
    await streams.ensure(jetstream)
    await kept.look()
    info = await jetstream.stream_info(streams.CLAIMS)
    assert (info.config.discard, info.state.messages) == (DiscardPolicy.OLD, 1)
    beside_older = False
    await kept.look()
    info = await jetstream.stream_info(streams.CLAIMS)
    assert (info.config.discard, info.state.messages) == (DiscardPolicy.NEW, 1)


def test_the_more_actors_there_are_the_less_often_each_looks() -> None:
    assert all(upkeep.LOOK / 2 <= upkeep.look_after(number) <= upkeep.LOOK for number in range(10))
    assert min(upkeep.look_after(40) for _ in range(100)) >= 50
    assert max(upkeep.look_after(10_000) for _ in range(100)) <= upkeep.LONGEST_LOOK


async def test_a_log_that_has_lost_events_takes_no_changes_of_commands_or_new_actors(
    log: Log, jetstream: JetStreamContext, own_cluster: Cluster
) -> None:
    for replicas in range(3):
        await log.append("chat", ModelScaleRequested(replicas))
    found = (await jetstream.stream_info(streams.EVENTS)).config
    await jetstream.update_stream(replace(found, max_msgs_per_subject=1, discard="old"))  # type: ignore[arg-type]
    await jetstream.update_stream(found)
    line = ("load", "simulated", "--id", "x", "--memory", "64MiB", "--no-wait")
    for arguments, code in ((line, 78), (("events",), 0), (("router",), 78)):
        done = await own_cluster.nebula(*arguments, nats=log.connection.url)
        assert done.code == code, done
        assert "the log has lost 2 of 3 events" in done.err
    assert await log.last_seq() == 3
