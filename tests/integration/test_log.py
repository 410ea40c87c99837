"""The log on a real nats-server, which the tests kill, restart and replace."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy, PubAck
from nats.js.errors import APIError

from nebula.events import record
from nebula.events.folding import fold
from nebula.events.intents import ModelLoadRequested, ModelScaleRequested, ModelUnloadRequested
from nebula.events.record import Malformed, Record
from nebula.events.state import EMPTY, State
from nebula.events.subjects import MODEL_EVENTS
from nebula.events.vocabulary import EngineReady
from nebula.store import log as log_module
from nebula.store import streams
from nebula.store import tail as tail_module
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Conflict, Guard, Log, TooLarge
from nebula.store.server import EmbeddedServer
from nebula.store.tail import LogReplaced
from tests.conftest import Connect

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


async def kill(server: EmbeddedServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    await server.wait()


async def restart(server: EmbeddedServer) -> None:
    await kill(server)
    await server.start()


def scale(replicas: int) -> ModelScaleRequested:
    return ModelScaleRequested(replicas)


class Reader:
    """Follows the log beside the test and keeps what it gets."""

    def __init__(self, log: Log, after: int = 0) -> None:
        self.entries: list[Record] = []
        self._more = asyncio.Condition()
        self._task = asyncio.create_task(self._follow(log, after))

    async def _follow(self, log: Log, after: int) -> None:
        async for batch in log.follow(after):
            async with self._more:
                self.entries += batch
                self._more.notify_all()

    @property
    def seqs(self) -> list[int]:
        return [entry.seq for entry in self.entries]

    async def reaches(self, seq: int) -> None:
        async def wait() -> None:
            async with self._more:
                await self._more.wait_for(lambda: bool(self.entries) and self.seqs[-1] >= seq)

        waiting = asyncio.create_task(wait())
        try:
            await asyncio.wait(
                (waiting, self._task), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
            if self._task.done():
                self._task.result()
            assert waiting.done(), f"read up to {self.seqs[-1:]}, not {seq}"
        finally:
            waiting.cancel()

    async def fails(self) -> None:
        await asyncio.wait_for(self._task, PATIENCE)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LogReplaced):
            await self._task


@contextlib.asynccontextmanager
async def reading(log: Log, after: int = 0) -> AsyncIterator[Reader]:
    reader = Reader(log, after)
    try:
        yield reader
    finally:
        await reader.close()


# The connection


async def test_a_task_that_is_cancelled_as_its_answer_comes_ends(connection: Connection) -> None:
    client = connection.client
    asked = asyncio.Event()

    async def arrive(message: Msg) -> None:
        asked.set()

    await client.subscribe("question", cb=arrive)
    asking = asyncio.create_task(client.request("question", timeout=PATIENCE))
    await asyncio.wait_for(asked.wait(), PATIENCE)
    (answer,) = client._resp_map.values()
    asking.cancel()
    answer.set_result(Msg(client))
    await asyncio.wait((asking,), timeout=PATIENCE)
    assert asking.cancelled()


async def test_a_task_that_was_cancelled_before_may_still_ask(connection: Connection) -> None:
    async def ends() -> int:
        try:
            return await asyncio.Event().wait()
        finally:
            await connection.client.flush()
            flushed.set()

    flushed = asyncio.Event()
    ending = asyncio.create_task(ends())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait((ending,), timeout=PATIENCE)
    assert ending.cancelled()
    assert flushed.is_set()


# Appending


async def test_every_event_gets_the_next_sequence(log: Log) -> None:
    assert await log.last_seq() == 0
    assert [await log.append("chat", scale(number)) for number in range(5)] == [1, 2, 3, 4, 5]
    assert await log.last_seq() == 5


async def test_an_entry_is_read_as_it_was_written(log: Log) -> None:
    event = ModelLoadRequested("org/chat", name="chät", options={"seed": 1})
    await log.append("other", scale(1))
    await log.append("other", scale(2))
    await log.append("chat", event, cause=1, basis=2)
    *_, entry = await log.read()
    assert (entry.seq, entry.aggregate, entry.id, entry.content) == (3, "model", "chat", event)
    assert (entry.cause, entry.basis, entry.actor) == (1, 2, "test")
    assert entry.subject == "nebula.events.model.chat.ModelLoadRequested"
    assert entry.time > 1_700_000_000 * 10**9


async def test_an_unsafe_id_reaches_no_subject(log: Log) -> None:
    for identity in ("a.b", "*", ">", "", "a b", "a\r\nPUB x 0"):
        with pytest.raises(ValueError, match="is not a valid id"):
            await log.append(identity, scale(1))
    assert await log.last_seq() == 0


async def test_under_a_guard_the_second_conflicts_and_leaves_no_event(log: Log) -> None:
    guard = Guard(MODEL_EVENTS, 0)
    assert await log.append("chat", scale(1), guard=guard) == 1
    with pytest.raises(Conflict):
        await log.append("other", scale(2), guard=guard)
    with pytest.raises(Conflict):
        await log.append("chat", scale(2), guard=Guard(MODEL_EVENTS, 2))
    assert await log.last_seq() == 1
    assert await log.append("chat", scale(2), guard=Guard(MODEL_EVENTS, 1)) == 2


async def test_a_guard_looks_at_its_own_subjects_only(log: Log) -> None:
    await log.append("chat", scale(1))
    await log.append("chat-0", EngineReady())
    assert await log.append("chat", scale(2), guard=Guard(MODEL_EVENTS, 1)) == 3


async def test_the_same_message_id_is_stored_once(log: Log) -> None:
    assert await log.append("chat", scale(1), message_id="one") == 1
    assert await log.append("chat", scale(1), message_id="one") == 1
    assert await log.append("chat", scale(1), message_id="two") == 2
    assert await log.last_seq() == 2


async def test_an_append_whose_acknowledgement_is_lost_does_not_conflict_with_itself(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_first_acknowledgement(monkeypatch)
    assert await log.append("chat", scale(1), guard=Guard(MODEL_EVENTS, 0)) == 1
    assert await log.last_seq() == 1


async def test_an_append_that_never_arrived_conflicts_with_what_others_wrote(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append("chat", scale(1))
    lose_the_first_acknowledgement(monkeypatch)
    for identity in ("chat", "other"):
        with pytest.raises(Conflict):
            await log.append(identity, scale(2), guard=Guard(MODEL_EVENTS, 0))
    assert await log.last_seq() == 1


def lose_the_first_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = JetStreamContext.publish

    async def lossy(self: JetStreamContext, *args: Any, **kwargs: Any) -> PubAck:
        monkeypatch.setattr(JetStreamContext, "publish", publish)
        with contextlib.suppress(APIError):
            await publish(self, *args, **kwargs)
        raise TimeoutError

    monkeypatch.setattr(JetStreamContext, "publish", lossy)


async def test_a_connection_closes_also_when_the_server_is_gone(
    nats_server: EmbeddedServer, log: Log
) -> None:
    await kill(nats_server)
    with pytest.raises(Unavailable):
        await log.append("chat", scale(1), patience=0.1)
    await log.connection.close()
    assert not log.connection.connected


async def test_an_append_rides_out_a_restart_and_stores_once(
    nats_server: EmbeddedServer, log: Log
) -> None:
    await kill(nats_server)
    appending = asyncio.create_task(log.append("chat", scale(1), patience=PATIENCE))
    await nats_server.start()
    assert await appending == 1
    assert [entry.content for entry in await log.read()] == [scale(1)]


async def test_without_a_server_an_append_is_unavailable_after_its_patience(
    nats_server: EmbeddedServer, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_APPEND_TRY", 0.2)
    await kill(nats_server)
    with pytest.raises(Unavailable, match="the log does not answer"):
        await log.append("chat", scale(1), patience=0.1)
    with pytest.raises(Unavailable):
        await log.last_seq()
    with pytest.raises(Unavailable):
        await log.open(patience=0.1)


async def test_what_was_given_up_without_a_connection_is_not_stored_later(
    nats_server: EmbeddedServer, log: Log
) -> None:
    lost = asyncio.Event()

    async def lose() -> None:
        lost.set()

    log.connection.on_disconnect(lose)
    await kill(nats_server)
    await asyncio.wait_for(lost.wait(), PATIENCE)
    with pytest.raises(Unavailable, match="NATS can't be reached"):
        await log.append("chat", scale(1), patience=0.1)
    await nats_server.start()
    assert await log.append("chat", scale(2), patience=PATIENCE) == 1
    assert [entry.content for entry in await log.read()] == [scale(2)]


def padded(size: int) -> ModelLoadRequested:
    """Return an intent whose body takes `size` bytes."""
    bare = ModelLoadRequested("m", options={"x": ""})
    return ModelLoadRequested("m", options={"x": "x" * (size - len(record.encode(bare)))})


@pytest.mark.parametrize("beyond", [-20, 1], ids=["with its headers", "without them"])
async def test_an_event_that_is_too_large_is_final_and_costs_no_connection(
    log: Log, beyond: int
) -> None:
    large = padded(log.connection.max_body + beyond)
    lost = asyncio.Event()

    async def lose() -> None:
        lost.set()

    log.connection.on_disconnect(lose)
    async with asyncio.timeout(5):
        with pytest.raises(TooLarge, match=r"too large for the log: nebula\.events\.model\.chat\."):
            await log.append("chat", large)
        with pytest.raises(TooLarge):
            await log.append_all([("a", scale(1)), ("b", large)], guard=Guard(MODEL_EVENTS, 0))
    assert await log.append("chat", scale(1)) == 1
    assert not lost.is_set()


async def test_an_event_that_its_stream_never_takes_is_too_large_as_well(
    log: Log, connection: Connection
) -> None:
    jetstream = connection.client.jetstream()
    small = (await jetstream.stream_info(streams.EVENTS)).config
    small.max_msg_size = 2000
    await jetstream.update_stream(small)
    with pytest.raises(TooLarge):
        await log.append("chat", padded(3000))
    with pytest.raises(TooLarge):
        await log.append_all([("chat", padded(3000))], guard=Guard(MODEL_EVENTS, 0))


async def test_many_writers_under_one_guard_make_one_order_without_gaps(
    connect: Connect, log: Log
) -> None:
    """Each folds what it missed, decides again and appends: no writer's count is lost."""
    await log.append("chat", ModelLoadRequested("/m", replicas=0))
    conflicts = 0

    async def add_one(writer: Log) -> int:
        nonlocal conflicts
        state: State = EMPTY
        while True:
            try:
                state = fold(state, await writer.read(state.seq))
            except Unavailable:
                continue  # a busy machine answers too late
            wanted = scale(state.models["chat"].spec.replicas + 1)
            try:
                return await writer.append("chat", wanted, guard=Guard(MODEL_EVENTS, state.seq))
            except Conflict:
                conflicts += 1

    connections = [await connect(f"writer-{number}") for number in range(5)]
    writers = [Log(connections[number % 5], actor=f"w{number}") for number in range(20)]
    seqs = await asyncio.gather(*(add_one(writer) for writer in writers))
    assert sorted(seqs) == list(range(2, 22))
    entries = await log.read(1)
    assert [entry.content for entry in entries] == [scale(number) for number in range(1, 21)]
    assert conflicts > 0


# What others publish


async def test_a_plain_publish_is_a_good_event(connection: Connection, log: Log) -> None:
    await connection.client.publish("nebula.events.model.chat.ModelUnloadRequested", b"")
    await connection.client.publish(
        "nebula.events.model.chat.ModelScaleRequested", b'{"replicas":2}'
    )
    async with reading(log) as reader:
        await reader.reaches(2)
    first, second = reader.entries
    assert (first.content, second.content) == (ModelUnloadRequested(), scale(2))
    assert (first.cause, first.basis, first.actor) == (None, None, "")


async def test_garbage_is_read_as_malformed_and_what_follows_it_is_read(
    connection: Connection, log: Log
) -> None:
    garbage = [
        ("nebula.events.model.chat.ModelScaleRequested", b"\xff\xfe\0"),
        ("nebula.events.model.chat.ModelScaleRequested", b"[" * 50_000),
        ("nebula.events.model.chat.ModelScaleRequested", b""),
        ("nebula.events.model.chat.Nonsense", b"{}"),
        ("nebula.events.nothing", b"{}"),
        ("nebula.events.a.b.c.d.e.f", b"{}"),
        ("nebula.events.model.ch\u00e4t.ModelUnloadRequested", b"{}"),
        ("nebula.events.model.$.ModelUnloadRequested", b"{}"),
    ]
    for subject, payload in garbage:
        await connection.client.publish(subject, payload)
    last = await log.append("chat", scale(1))
    entries = await log.read()
    assert [entry.seq for entry in entries] == list(range(1, last + 1))
    assert [entry.subject for entry in entries[:-1]] == [subject for subject, _ in garbage]
    assert all(isinstance(entry.content, Malformed) for entry in entries[:-1])
    assert entries[-1].content == scale(1)


async def test_headers_that_make_no_sense_are_left_out(connection: Connection, log: Log) -> None:
    subject = "nebula.events.model.chat.ModelUnloadRequested"
    for cause in ("x", "-1", "9" * 5000, "1.5", "٣"):
        headers = {record.CAUSE_HEADER: cause, record.BASIS_HEADER: cause, "X": "y"}
        await connection.client.publish(subject, b"", headers=headers)
    async with reading(log) as reader:
        await reader.reaches(5)
    assert [(entry.cause, entry.basis) for entry in reader.entries] == [(None, None)] * 5


@pytest.mark.parametrize(
    "headers",
    [
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: empty\r\n\r\n",
        b"NATS/1.0\r\nNebula-Cause: 1\r\nNebula-Cause: 2\r\n\r\n",
        b"NATS/1.0\r\nNebula-Actor: \xff\xfe\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
        b"HTTP/1.1\r\nA: b\r\n\r\n",
        b"NATS/1.0\r\nNats-Last-Consumer: x\r\nNats-Consumer-Stalled: a b\r\n\r\n",
    ],
    ids=range(9),
)
async def test_whatever_stands_in_the_headers_the_reader_goes_on(
    nats_server: EmbeddedServer, log: Log, headers: bytes
) -> None:
    async with reading(log) as reader:
        subject = b"nebula.events.model.chat.ModelUnloadRequested"
        command = b"HPUB %b %d %d\r\n%b{}\r\n" % (subject, len(headers), len(headers) + 2, headers)
        await say(nats_server, command)
        last = await log.append("chat", scale(1))
        await reader.reaches(last)
        assert reader.seqs == list(range(1, last + 1))


async def say(server: EmbeddedServer, command: bytes) -> None:
    """Speak NATS by hand, as no client would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + command + b"PING\r\n")
    async with asyncio.timeout(PATIENCE):
        while (await reader.readline()).strip() not in (b"PONG", b""):
            continue
    writer.close()
    await writer.wait_closed()


# Reading and following


async def test_reading_begins_and_ends_where_it_is_told(log: Log) -> None:
    assert await log.read() == []
    for number in range(1, 11):
        await log.append("chat", scale(number))
    assert [entry.seq for entry in await log.read()] == list(range(1, 11))
    assert [entry.seq for entry in await log.read(7)] == [8, 9, 10]
    assert [entry.seq for entry in await log.read(2, 4)] == [3, 4]
    assert await log.read(10) == []
    assert await log.read(4, 4) == []


async def test_following_gives_what_was_and_what_comes(log: Log) -> None:
    for number in range(1, 4):
        await log.append("chat", scale(number))
    async with reading(log) as whole, reading(log, 2) as tail:
        await whole.reaches(3)
        await tail.reaches(3)
        await log.append("chat", scale(4))
        await whole.reaches(4)
        await tail.reaches(4)
    assert whole.seqs == [1, 2, 3, 4]
    assert tail.seqs == [3, 4]


async def test_a_long_log_is_followed_without_a_gap(log: Log) -> None:
    """It is stored a thousand at a time: the server syncs each single one to its disk before it
    delivers any, for longer than patience lasts where the disk is slow."""
    count = 0
    while count < 5_000:
        thousand = [("chat", scale(number)) for number in range(1_000)]
        count = await log.append_all(thousand, guard=Guard(MODEL_EVENTS, count))
    async with reading(log) as reader:
        await reader.reaches(count)
    assert reader.seqs == list(range(1, count + 1))


async def test_the_end_of_a_reader_leaves_no_subscription(connection: Connection, log: Log) -> None:
    await log.append("chat", scale(1))
    subscriptions = len(connection.client._subs)
    for _ in range(3):
        assert len(await log.read()) == 1
    async with reading(log) as reader:
        await reader.reaches(1)
    assert len(connection.client._subs) == subscriptions


async def test_following_goes_on_when_its_consumer_was_deleted_behind_its_back(
    connection: Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "HEARTBEAT", 0.2)
    await log.append("chat", scale(1))
    async with reading(log) as reader:
        await reader.reaches(1)
        jetstream = connection.client.jetstream()
        (consumer,) = await jetstream.consumers_info(streams.EVENTS)
        assert consumer.config.deliver_policy == DeliverPolicy.BY_START_SEQUENCE
        assert await jetstream.delete_consumer(streams.EVENTS, consumer.name)
        last = await log.append("chat", scale(2))
        await reader.reaches(last)
    assert reader.seqs == [1, 2]


async def test_following_goes_on_without_gap_or_repetition_while_the_server_is_killed(
    nats_server: EmbeddedServer, connect: Connect, log: Log
) -> None:
    writer = Log(await connect("writer"))
    going, written = asyncio.Event(), 10
    for number in range(written):
        await writer.append("chat", scale(number))
    going.set()

    async def write() -> None:
        nonlocal written
        while going.is_set():
            await writer.append("chat", scale(written % 1000), patience=PATIENCE)
            written += 1

    async with reading(log) as reader, reading(log, 10) as second:
        writing = asyncio.create_task(write())
        for _ in range(4):
            await reader.reaches((reader.seqs or [0])[-1] + 20)
            await restart(nats_server)
        await reader.reaches(reader.seqs[-1] + 20)
        going.clear()
        await writing
        last = await log.last_seq()
        await reader.reaches(last)
        await second.reaches(last)
    kept = await log.read()
    assert [entry.seq for entry in kept] == list(range(1, last + 1))
    assert last == written, "an append was stored twice or lost"
    assert [entry.content for entry in kept] == [scale(number % 1000) for number in range(written)]
    assert reader.entries == kept
    assert second.entries == kept[10:]


async def test_another_log_in_place_of_the_known_one_is_noticed(
    nats_server: EmbeddedServer, log: Log
) -> None:
    for number in range(3):
        await log.append("chat", scale(number))
    async with reading(log) as reader:
        await reader.reaches(3)
        await kill(nats_server)
        shutil.rmtree(nats_server.folder / "jetstream")
        await nats_server.start()
        with pytest.raises(LogReplaced, match="gone"):
            await reader.fails()


async def test_another_log_is_noticed_though_it_is_as_long(
    connection: Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "HEARTBEAT", 0.5)
    for number in range(3):
        await log.append("chat", scale(number))
    async with reading(log) as reader:
        await reader.reaches(3)
        await connection.client.jetstream().delete_stream(streams.EVENTS)
        await log.open(patience=PATIENCE)
        for number in range(5):
            await log.append("other", scale(number))
        with pytest.raises(LogReplaced, match="created again, after 3 was read"):
            await reader.fails()
    assert reader.seqs == [1, 2, 3]


async def test_a_log_that_ends_before_what_was_read_of_it_is_another_one(log: Log) -> None:
    await log.append("chat", scale(1))
    async with reading(log, after=5) as reader:
        with pytest.raises(LogReplaced, match="ends at 1, but 5 was read"):
            await reader.fails()
