"""Snapshots in JetStream: made when due, checked by hash, and never trusted against the log."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from nats.js.api import ObjectMeta

from nebula.actors import actor
from nebula.actors.projection import Projection
from nebula.cli.cluster import joined
from nebula.events import snapshot
from nebula.events.intents import ModelLoadRequested, ModelScaleRequested
from nebula.events.snapshot import FOLD
from nebula.events.state import State
from nebula.store.connection import Connection
from nebula.store.importing import import_entries
from nebula.store.log import Log
from nebula.store.snapshots import BUCKET, SLOTS, Snapshots
from nebula.store.streams import EVENTS, ensure
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
def nats(own_cluster: Cluster) -> Cluster:
    """A nats-server alone."""
    own_cluster.start("nats")
    return own_cluster


@pytest.fixture
async def log(nats: Cluster) -> AsyncIterator[Log]:
    connection = await Connection(nats.nats_url, "test").open(patience=PATIENCE)
    yield await Log(connection).open(patience=PATIENCE)
    await connection.close()


async def grow(log: Log, count: int) -> State:
    """Append events, and give the state that the whole log folds to."""
    await log.append("chat", ModelLoadRequested("/m"))
    for number in range(count):
        await log.append("chat", ModelScaleRequested(number % 5))
    async with joined(log.connection.url, patience=PATIENCE) as projection:
        return projection.state


async def begun(log: Log) -> State:
    """Return the state that an actor begins with, before it follows the log."""
    projection = Projection(log)
    await projection.restore()
    return projection.state


async def overwrite(log: Log, slot: str, data: bytes, seq: int) -> None:
    store = await log.connection.client.jetstream().object_store(BUCKET)
    await store.put(slot, data, ObjectMeta(description=str(seq)))


async def test_an_actor_begins_with_the_newest_snapshot(log: Log) -> None:
    state = await grow(log, 3)
    await Snapshots(log).put(state)
    assert await begun(log) == state
    later = await grow(log, 2)
    assert (await begun(log)).seq == state.seq
    await Snapshots(log).put(later)
    assert await Snapshots(log).seqs() == [later.seq, state.seq]
    assert await begun(log) == later


async def test_there_are_two_and_the_older_one_is_overwritten(log: Log) -> None:
    states = [await grow(log, 1) for _ in range(3)]
    for state in states:
        await Snapshots(log).put(state)
    assert await Snapshots(log).seqs() == [states[2].seq, states[1].seq]


async def test_without_snapshots_an_actor_begins_with_nothing(log: Log) -> None:
    await grow(log, 1)
    assert (await begun(log)).seq == 0
    assert await Snapshots(log).seqs() == []


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


BAD = {
    "damaged": (flipped, "it is damaged: its hash is not the one it was written with"),
    "cut off": (lambda data: data[:-1], "it is damaged"),
    "no snapshot": (lambda _: b"hello", "it does not begin as a snapshot does"),
    "of an unknown version": (
        lambda data: data.replace(b'"format":1', b'"format":9', 1),
        f"it is of format 9, fold {FOLD}; this Nebula knows format 1, fold {FOLD}",
    ),
    "of a fold that means something else": (
        lambda data: data.replace(b'"fold":%d' % FOLD, b'"fold":9', 1),
        "it is of format 1, fold 9",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_snapshot_is_passed_over_with_a_warning(
    log: Log, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, reason = BAD[what]
    older = await grow(log, 1)
    await Snapshots(log).put(older)
    newer = await grow(log, 1)
    await overwrite(log, SLOTS[1], spoil(snapshot.dump(newer)), newer.seq)
    assert await begun(log) == older
    assert f"the snapshot at {newer.seq} is not used: {reason}" in caplog.text
    assert "the log is read instead" in caplog.text

    await overwrite(log, SLOTS[0], spoil(snapshot.dump(older)), older.seq)
    assert (await begun(log)).seq == 0
    async with joined(log.connection.url, patience=PATIENCE) as projection:
        assert projection.state == newer


async def test_a_snapshot_of_another_log_is_passed_over(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    state = await grow(log, 2)
    await Snapshots(log).put(replace(state, time=state.time - 1))
    assert (await begun(log)).seq == 0
    assert "it is a snapshot of another log" in caplog.text


async def test_an_import_into_an_empty_log_leaves_no_earlier_snapshot(log: Log) -> None:
    jetstream = log.connection.client.jetstream()
    state = await grow(log, 2)
    await Snapshots(log).put(state)
    entries = [entry async for some in log.entries(0, state.seq) for entry in some]
    await jetstream.delete_stream(EVENTS)
    await ensure(jetstream)
    assert await import_entries(log, entries) == state.seq
    assert await Snapshots(log).seqs() == []


async def test_the_command_makes_lists_and_checks_them(log: Log, nats: Cluster) -> None:
    assert (await nats.nebula("snapshots")).out == "no snapshots yet\n"
    state = await grow(log, 2)
    assert (await nats.nebula("snapshots", "make")).out == f"event {state.seq}: snapshot made\n"
    assert (await nats.nebula("snapshots", "make")).out == f"event {state.seq}: snapshot made\n"
    assert (await nats.nebula("snapshots")).out == f"event {state.seq} (state-0)\n"
    good = await nats.nebula("snapshots", "check")
    assert (good.code, good.out) == (0, f"event {state.seq} (state-0): is what the log folds to\n")

    for seq, slot in ((state.seq, SLOTS[1]), ((await grow(log, 1)).seq, SLOTS[0])):
        wrong = replace(state, seq=seq, capacity_seq=1)
        await overwrite(log, slot, snapshot.dump(wrong), seq)
        bad = await nats.nebula("snapshots", "check")
        assert bad.code == 1
        assert f"event {seq} ({slot}): it " in bad.out
        assert f"event {state.seq} (state-1): it is NOT what the log folds to" in bad.out


async def test_of_two_at_one_sequence_the_other_is_left_to_start_from(log: Log) -> None:
    state = await grow(log, 1)
    await Snapshots(log).put(state)
    await overwrite(log, SLOTS[1], flipped(snapshot.dump(state)), state.seq)
    assert await begun(log) == state
    await overwrite(log, SLOTS[1], snapshot.dump(state), state.seq)
    await overwrite(log, SLOTS[0], flipped(snapshot.dump(state)), state.seq)
    assert await begun(log) == state


class Maker(actor.Actor):
    """An actor that makes snapshots, as routers do."""

    makes_snapshots = True


async def test_an_actor_makes_one_when_it_is_due(
    log: Log, nats: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "SNAPSHOT_EVERY", 5)
    monkeypatch.setattr(actor, "SNAPSHOT_JITTER", 0.0)
    connection = Connection(log.connection.url, "an actor")
    living = Maker(connection)
    running = asyncio.create_task(living.run())
    try:
        await grow(log, 6)
        await nats.poll(Snapshots(log).seqs, "a snapshot is made")
        [seq] = await Snapshots(log).seqs()
        assert 5 <= seq <= (await log.read())[-1].seq  # the actor founds the cluster meanwhile
    finally:
        living.stop()
        await running
        await connection.close()
