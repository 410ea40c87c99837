"""What the data plane's stream holds of an answer is read part by part, however much it is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from nebula.events import subjects
from nebula.events.piece_envelope import plain_block
from nebula.store import inference_log, streams
from nebula.store.connection import Connection, Unavailable
from nebula.store.inference_log import PART_BYTES
from nebula.store.log import Log

pytestmark = pytest.mark.anyio

SUBJECT = subjects.responses("gw", "r1")
LARGE = 50 * 1024


async def say(connection: Connection, number: int, size: int, first: int = 0) -> None:
    for chunk in range(first, first + number):
        connection.client.post(SUBJECT, plain_block(chunk), b"%d " % chunk + b"x" * size)
    await connection.client.flush()
    jetstream = connection.client.jetstream()
    while (await jetstream.stream_info(streams.INFERENCE)).state.messages < first + number:
        pass


async def delivered(connection: Connection) -> int:
    (info,) = await connection.client.jetstream().consumers_info(streams.INFERENCE)
    assert info.delivered is not None
    return info.delivered.consumer_seq


def chunk_of(said: inference_log.StoredMessage) -> int:
    return int(said.body.split(b" ")[0])


async def test_all_that_was_said_is_read_in_order_then_what_comes(
    connection: Connection, log: Log
) -> None:
    await say(connection, 600, 10)
    async with contextlib.aclosing(inference_log.follow(connection, [SUBJECT])) as following:
        past = [chunk_of(said) async for said in _until_none(following)]
        assert past == list(range(600))
        await say(connection, 300, 10, first=600)
        news = [await anext(following) for _ in range(300)]
        assert [chunk_of(said) for said in news if said is not None] == list(range(600, 900))


async def _until_none(
    following: AsyncIterator[inference_log.StoredMessage | None],
) -> AsyncIterator[inference_log.StoredMessage]:
    async for said in following:
        if said is None:
            return
        yield said


async def test_a_slow_reader_holds_no_more_than_a_part(connection: Connection, log: Log) -> None:
    await say(connection, 200, LARGE)
    async with contextlib.aclosing(inference_log.follow(connection, [SUBJECT])) as following:
        for number in range(200):
            said = await anext(following)
            assert said is not None
            assert chunk_of(said) == number
            if number % 50 == 0:
                assert (await delivered(connection) - number) * LARGE <= PART_BYTES


async def test_a_message_that_is_larger_than_a_part_is_read_too(
    connection: Connection, log: Log
) -> None:
    sizes = [10, 3 * PART_BYTES, 10, 2 * PART_BYTES, 2 * PART_BYTES, 10]
    for chunk, size in enumerate(sizes):
        await say(connection, 1, size, first=chunk)
    read = [said async for said in inference_log.read(connection, [SUBJECT])]
    assert [said.size for said in read] == [size + 2 for size in sizes]


async def test_a_reader_whose_place_is_gone_is_told(connection: Connection, log: Log) -> None:
    await say(connection, 1, 10)
    async with contextlib.aclosing(inference_log.follow(connection, [SUBJECT])) as following:
        assert await anext(following) is not None
        assert await anext(following) is None
        jetstream = connection.client.jetstream()
        (info,) = await jetstream.consumers_info(streams.INFERENCE)
        await jetstream.delete_consumer(streams.INFERENCE, info.name)
        with pytest.raises(Unavailable):
            await anext(following)


async def test_nothing_is_left_of_a_reader(connection: Connection, log: Log) -> None:
    await say(connection, 3, 10)
    assert len([said async for said in inference_log.read(connection, [SUBJECT])]) == 3
    await connection.client.flush()
    jetstream = connection.client.jetstream()
    while await jetstream.consumers_info(streams.INFERENCE):
        pass
