"""The streams: created by the first actor, and refused if they have wrong settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    SubjectTransform,
)
from nats.js.errors import APIError, NoStreamResponseError

from nebula.events import subjects
from nebula.events.intents import ModelScaleRequested
from nebula.store import streams
from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.streams import StreamMismatch, definitions
from tests.conftest import Connect

pytestmark = pytest.mark.anyio

EVENTS, STATUS, INFERENCE, CLAIMS = definitions()


@pytest.fixture
def jetstream(connection: Connection) -> JetStreamContext:
    return connection.client.jetstream(timeout=5)


async def config(jetstream: JetStreamContext, name: str) -> StreamConfig:
    return (await jetstream.stream_info(name)).config


async def test_the_first_to_come_creates_them_and_the_next_finds_them(
    jetstream: JetStreamContext,
) -> None:
    await streams.ensure(jetstream)
    first = await jetstream.streams_info()
    await streams.ensure(jetstream)
    second = await jetstream.streams_info()
    assert sorted(str(each.config.name) for each in first) == sorted(
        [streams.EVENTS, streams.STATUS, streams.INFERENCE, streams.CLAIMS]
    )
    assert [each.created for each in first] == [each.created for each in second]


async def test_many_that_come_at_once_all_find_them(connect: Connect) -> None:
    connections = [await connect(f"actor-{number}") for number in range(8)]
    await asyncio.gather(
        *(streams.ensure(each.client.jetstream(timeout=5)) for each in connections)
    )
    assert len(await connections[0].client.jetstream().streams_info()) == 4


async def test_the_log_is_kept_for_ever_on_disk(jetstream: JetStreamContext, log: Log) -> None:
    found = await config(jetstream, streams.EVENTS)
    assert found.subjects == ["nebula.events.>"]
    assert found.storage == StorageType.FILE
    assert found.retention == RetentionPolicy.LIMITS
    assert found.discard == DiscardPolicy.NEW
    assert found.deny_delete
    assert found.deny_purge
    assert not found.no_ack
    assert (found.max_age or 0) == 0
    assert (found.max_bytes, found.max_msgs, found.max_msgs_per_subject) == (-1, -1, -1)


@pytest.mark.parametrize("name", [streams.STATUS, streams.INFERENCE])
async def test_what_may_be_lost_stays_in_memory_and_is_not_acknowledged(
    jetstream: JetStreamContext, log: Log, name: str
) -> None:
    found = await config(jetstream, name)
    assert found.storage == StorageType.MEMORY
    assert found.no_ack
    assert found.discard == DiscardPolicy.OLD
    assert found.max_age
    assert found.max_bytes is not None
    assert found.max_bytes > 0


async def test_of_the_heartbeats_only_the_last_of_each_is_kept(
    jetstream: JetStreamContext, connection: Connection, log: Log
) -> None:
    for beat in range(5):
        for node in ("alpha", "beta"):
            await connection.client.publish(subjects.node_status(node), b"%d" % beat)
    async with asyncio.timeout(10):  # stored, not acknowledged: at an unknown time
        while (await jetstream.stream_info(streams.STATUS)).state.last_seq < 10:
            continue
    assert (await jetstream.stream_info(streams.STATUS)).state.messages == 2
    last = await jetstream.get_last_msg(streams.STATUS, subjects.node_status("beta"))
    assert last.data == b"4"


async def test_no_answer_is_sent_for_what_is_not_acknowledged(
    jetstream: JetStreamContext, log: Log
) -> None:
    for subject in (subjects.requests("chat"), subjects.node_status("alpha")):
        with pytest.raises((TimeoutError, NoStreamResponseError)):
            await jetstream.publish(subject, b"{}", timeout=0.2)


async def test_the_server_deletes_and_purges_nothing_of_the_log(
    jetstream: JetStreamContext, log: Log
) -> None:
    seq = await log.append("chat", ModelScaleRequested(1))
    with pytest.raises(APIError, match="delete not permitted"):
        await jetstream.delete_msg(streams.EVENTS, seq)
    with pytest.raises(APIError, match="purge not permitted"):
        await jetstream.purge_stream(streams.EVENTS)
    for allowing in (replace(EVENTS, deny_purge=False), replace(EVENTS, deny_delete=False)):
        with pytest.raises(APIError):
            await jetstream.update_stream(allowing)
    assert [entry.seq for entry in await log.read()] == [seq]


WRONG: dict[str, Any] = {
    "subjects": ["nebula.events.*.*.*"],
    "storage": StorageType.MEMORY,
    "discard": DiscardPolicy.OLD,
    "max_age": 3600,
    "duplicate_window": 1,
    "max_bytes": 1024 * 1024,
    "max_msgs": 1000,
    "max_msgs_per_subject": 1,
    "max_msg_size": 1024,
    "allow_msg_ttl": True,
    "persist_mode": PersistMode.ASYNC,
    "subject_transform": SubjectTransform("nebula.events.>", "nebula.events.other.>"),
    "no_ack": True,
    "deny_delete": False,
    "deny_purge": False,
}


@pytest.mark.parametrize("field", sorted(WRONG))
async def test_a_log_that_could_lose_events_is_refused(
    jetstream: JetStreamContext, field: str
) -> None:
    await jetstream.add_stream(replace(EVENTS, allow_atomic=False, **{field: WRONG[field]}))
    with pytest.raises(StreamMismatch, match=f"NEBULA_EVENTS is not configured.* {field} is "):
        await streams.ensure(jetstream)


async def test_every_difference_is_named_and_nothing_is_changed(
    jetstream: JetStreamContext, connection: Connection
) -> None:
    await jetstream.add_stream(
        replace(
            EVENTS,
            retention=RetentionPolicy.INTEREST,
            deny_delete=False,
            deny_purge=False,
            allow_rollup_hdrs=True,
            max_age=600,
            duplicate_window=1,
        )
    )
    before = await config(jetstream, streams.EVENTS)
    with pytest.raises(StreamMismatch) as refused:
        await Log(connection).open(patience=5)
    text = str(refused.value)
    assert text.startswith("stream NEBULA_EVENTS is not configured as Nebula needs it: ")
    for difference in (
        "retention is interest, needed limits",
        "deny_delete is ",
        "deny_purge is ",
        "allow_rollup_hdrs is ",
        "max_age is 600",
        "duplicate_window is 1",
    ):
        assert difference in text
    assert await config(jetstream, streams.EVENTS) == before


async def test_a_status_stream_on_disk_is_made_again(jetstream: JetStreamContext) -> None:
    await jetstream.add_stream(replace(STATUS, storage=StorageType.FILE, no_ack=False))
    await streams.ensure(jetstream)
    assert (await config(jetstream, streams.STATUS)).storage == StorageType.MEMORY


async def test_a_log_with_too_few_copies_is_refused(jetstream: JetStreamContext) -> None:
    await jetstream.add_stream(EVENTS)
    with pytest.raises(StreamMismatch, match="num_replicas is 1, needed 3 or more"):
        await streams.ensure(jetstream, replicas=3)


async def test_subjects_that_another_stream_holds_are_said_with_its_name_and_what_to_do(
    jetstream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_TRIES", 2)
    await jetstream.add_stream(StreamConfig(name="OTHER", subjects=["nebula.events.model.>"]))
    with pytest.raises(StreamMismatch, match=r"stream NEBULA_EVENTS can't") as refused:
        await streams.ensure(jetstream)
    assert "stream 'OTHER' has subjects of nebula.events.> already" in str(refused.value)
    assert "nats stream rm OTHER" in str(refused.value)
