"""What gateways share of batches and files, on a real nats-server: the first to write is right."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.errors import MaxPayloadError

from nebula.store import durable, files
from nebula.store.batch_queue import LINES, BatchQueue, LineResult, QueuedLine
from nebula.store.connection import Connection, Unavailable
from nebula.store.durable import NoRoom
from nebula.store.files import FileFacts, Files, Upload
from nebula.store.server import binary
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

LINE = QueuedLine("a", 1, 0, 10, 0)
GOOD, BAD = LineResult("completed", b"good\n"), LineResult("failed", b"bad\n")
FACTS = FileFacts(owner="o", filename="f", purpose="batch", created=0, expires=2**40)


@pytest.fixture
async def connection(own_cluster: Cluster) -> AsyncIterator[Connection]:
    own_cluster.start("nats")
    connection = await Connection(own_cluster.url(), "test").open(patience=PATIENCE)
    yield connection
    await connection.close()


@pytest.fixture
async def queue(connection: Connection) -> BatchQueue:
    queue = BatchQueue(connection)
    await queue.open()
    return queue


async def test_the_first_result_of_a_line_stays(queue: BatchQueue) -> None:
    assert await queue.result("b", 1) is None
    await queue.put_result("b", 1, GOOD)
    await queue.put_result("b", 1, BAD)
    assert await queue.result("b", 1) == GOOD
    large = LineResult("failed", file="file-1")
    await queue.put_result("b", 2, large)
    assert await queue.result("b", 2) == large


async def test_of_many_gateways_that_write_one_result_one_wins(queue: BatchQueue) -> None:
    results = [LineResult("completed", b"%d\n" % number) for number in range(20)]
    await asyncio.gather(*(queue.put_result("b", 7, result) for result in results))
    found = await queue.result("b", 7)
    assert found in results
    assert await queue.result("b", 7) == found


async def test_a_line_is_queued_once(queue: BatchQueue) -> None:
    for _ in range(3):
        await queue.put_line("b", 1, LINE)
    await queue.put_line("b", 2, LINE)
    info = await durable.jetstream(queue.connection).stream_info(LINES)
    assert info.state.messages == 2


async def test_what_came_of_lines_is_followed_from_the_first(queue: BatchQueue) -> None:
    await queue.put_result("b", 1, GOOD)
    await queue.put_result("other", 5, GOOD)
    outcomes = queue.outcomes("b")
    assert [await anext(outcomes), await anext(outcomes)] == [(1, "completed"), None]
    await queue.put_result("b", 2, BAD)
    assert await anext(outcomes) == (2, "failed")
    await outcomes.aclose()


async def test_a_lease_has_one_holder(queue: BatchQueue) -> None:
    first = await queue.take_lease("b", "one", 0)
    assert first is not None
    assert await queue.take_lease("b", "two", 0) is None
    renewed = await queue.take_lease("b", "one", first)
    assert renewed is not None
    assert await queue.take_lease("b", "two", first) is None
    assert await queue.lease("b") == (renewed, "one")
    taken = await queue.take_lease("b", "two", renewed)
    assert taken is not None
    assert await queue.take_lease("b", "one", renewed) is None
    assert await queue.leased() == ["b"]
    await queue.give_lease_back("b")
    assert await queue.lease("b") is None
    assert await queue.take_lease("b", "one", 0) is not None


async def test_what_is_left_of_a_batch_is_removed_and_nothing_else(queue: BatchQueue) -> None:
    for batch in ("b", "other"):
        await queue.put_line(batch, 1, LINE)
        await queue.put_result(batch, 1, GOOD)
        await queue.take_lease(batch, "one", 0)
    await queue.clear("b")
    assert await queue.result("b", 1) is None
    assert await queue.leased() == ["other"]
    assert await queue.result("other", 1) == GOOD


async def test_a_result_that_is_larger_than_a_message_is_told(queue: BatchQueue) -> None:
    large = LineResult("completed", b"x" * (queue.connection.max_body + 1))
    with pytest.raises(MaxPayloadError):
        await queue.put_result("b", 1, large)
    assert await queue.result("b", 1) is None


async def written(store: Files, identity: str, data: bytes) -> Upload:
    upload = await store.upload(identity)
    await upload.write(data)
    return upload


async def read(store: Files, identity: str) -> bytes:
    file = await store.find(identity)
    assert file is not None
    return b"".join([chunk async for _, chunk in store.content(file)])


async def test_the_first_file_with_an_id_stays_whole(connection: Connection) -> None:
    store = Files(connection)
    first = await written(store, "file-1", b"first" * 60_000)
    second = await written(store, "file-1", b"second" * 60_000)
    kept = await first.finish(FACTS)
    assert await second.finish(FACTS) == kept
    await first.abandon()
    await second.abandon()
    assert await read(store, "file-1") == b"first" * 60_000
    info = await durable.jetstream(connection).stream_info(files.STREAM)
    assert info.state.messages == kept.chunks + 1, "nothing is left of the second"


async def test_files_that_have_expired_are_gone(connection: Connection) -> None:
    store = Files(connection)
    old = FileFacts(owner="o", filename="f", purpose="batch", created=0, expires=1)
    await (await written(store, "file-1", b"old")).finish(old)
    await (await written(store, "file-2", b"new")).finish(FACTS)
    assert await store.find("file-1") is None
    assert [file.id for file in await store.owned("o")] == ["file-2"]
    assert await store.remove_expired() == 1
    info = await durable.jetstream(connection).stream_info(files.STREAM)
    assert info.state.messages == 2


async def test_nothing_is_there_before_the_first_file(connection: Connection) -> None:
    store = Files(connection)
    assert await store.find("file-1") is None
    assert await store.owned("o") == []
    assert await store.remove_expired() == 0
    assert await BatchQueue(connection).leased() == []


async def test_an_upload_goes_on_when_nats_is_back(
    own_cluster: Cluster, connection: Connection
) -> None:
    store = Files(connection)
    upload = await written(store, "file-1", b"a" * 200_000)
    own_cluster.kill("nats")
    writing = asyncio.create_task(upload.write(b"b" * 200_000))
    own_cluster.again("nats")
    await writing
    await upload.finish(FACTS)
    assert await read(store, "file-1") == b"a" * 200_000 + b"b" * 200_000


async def test_a_server_without_room_says_so(own_cluster: Cluster) -> None:
    config = own_cluster.folder / "small.conf"
    config.write_text(
        f'listen: "127.0.0.1:{own_cluster.nats_port}"\n'
        f'jetstream {{ store_dir: "{own_cluster.folder / "small"}", max_file_store: 100MB }}\n'
    )
    own_cluster.program("nats", binary(), "-c", str(config))
    connection = await Connection(own_cluster.url(), "test").open(patience=PATIENCE)
    store = Files(connection)
    try:
        with pytest.raises(NoRoom, match="insufficient storage"):
            await store.upload()
        with pytest.raises(NoRoom, match="insufficient storage"):
            await store.upload()
        with pytest.raises(NoRoom, match="insufficient storage"):
            await BatchQueue(connection).open()
    finally:
        await connection.close()


async def test_a_stream_that_is_away_is_told(own_cluster: Cluster, connection: Connection) -> None:
    own_cluster.kill("nats")
    with pytest.raises(Unavailable):
        await durable.store(connection, "nebula.batches.leases.b", patience=0.0)
    with pytest.raises(Unavailable):
        await BatchQueue(connection).lease("b")
