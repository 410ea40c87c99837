"""The log read without NATS: from a server's store folder, and from a backup of its stream."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from nebula.events.original import wrapped
from nebula.events.record import Entry
from nebula.store import s2, streams
from nebula.store.backup import read_backup
from nebula.store.blocks import Unreadable, parse_block, read_blocks
from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
ARCHIVE = "stream.tar.s2"


def odd_messages() -> list[tuple[str, dict[str, str], bytes]]:
    """What is hard to store: (subject, headers, body), more of it than one block holds."""
    messages: list[tuple[str, dict[str, str], bytes]] = [
        ("nebula.events.model.m.ModelScaleRequested", {}, b'{"replicas":3}'),
        ("nebula.events.x", {}, b""),
        ("nebula.events." + ".".join("deep" for _ in range(100)), {"Only": "a header"}, b""),
        ("nebula.events.ünïcödé.日本.🙂", {"Nebula-Actor": "gateway-1"}, "Grüße".encode()),
        ("nebula.events.$.-_:;,%&/()=?!", {"Empty": "", "Colons": "a: b: c"}, b"\x00"),
        ("nebula.events." + "s" * 3000, {}, bytes(range(256))),
        ("nebula.events.big", {"Long": "v" * 5000}, b"a" * 1_000_000),
        ("nebula.events.magic", {}, b"cmp\x01NATSARC1S2sTwO"),
    ]
    messages += [("nebula.events.random", {"Of": str(n)}, os.urandom(3 << 20)) for n in range(4)]
    messages += [
        (
            f"nebula.events.replica.r{n}.EngineReady",
            {"Nats-Msg-Id": f"id-{n}", "Nebula-Cause": str(n)} if n % 3 else {},
            json.dumps({"replica": f"r{n}", "port": 8000 + n}).encode() * (n % 5),
        )
        for n in range(300)
    ]
    return messages


def header_block(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode() if headers else b""


async def append_odd(connection: Connection) -> list[tuple[int, str, bytes, bytes]]:
    """Append them all and say what the log must hold: (sequence, subject, headers, body)."""
    jetstream = connection.client.jetstream(timeout=PATIENCE)
    appended = []
    for subject, headers, body in odd_messages():
        ack = await jetstream.publish(subject, body, headers=headers or None)
        appended.append((ack.seq, subject, header_block(headers), body))
    return appended


def contents(entries: Iterable[Entry]) -> list[tuple[int, str, bytes, bytes]]:
    return [(entry.seq, entry.subject, entry.headers, entry.body) for entry in entries]


def stream_folder(server: EmbeddedServer) -> Path:
    return server.folder / "jetstream" / "jetstream" / "$G" / "streams" / streams.EVENTS


async def live(log: Log) -> list[Entry]:
    return [entry async for batch in log.entries() for entry in batch]


async def take_backup(
    connection: Connection, folder: Path, *, chunk_size: int = 0, stream: str = streams.EVENTS
) -> int:
    """Do what `nats stream backup` does, and give the number of chunks that had to be acknowledged.

    As of NATS's ADR "JetStream Stream Backup and Restore V2": the server sends chunks, and waits
    for an answer to some of them; an empty message is the last.
    """
    client = connection.client
    inbox = client.new_inbox()
    ended: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
    asked = 0
    folder.mkdir(parents=True)  # noqa: ASYNC240
    with (folder / ARCHIVE).open("wb") as file:

        async def take(message: Msg) -> None:
            nonlocal asked
            if not message.data:
                ended.set_result(message)
                return
            file.write(message.data)
            if message.reply:
                asked += 1
                await message.respond(b"")

        subscription = await client.subscribe(inbox, cb=take)
        request = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": chunk_size}
        answer = await client.request(
            f"$JS.API.STREAM.SNAPSHOT.{stream}", json.dumps(request).encode(), timeout=PATIENCE
        )
        response = json.loads(answer.data)
        assert "error" not in response, response
        last = await asyncio.wait_for(ended, PATIENCE)
        await subscription.unsubscribe()
    assert (last.headers or {}).get("Status", "204") == "204", last.headers
    described = {"config": response["config"], "state": response["state"]}
    (folder / "backup.json").write_text(json.dumps(described), "utf-8")
    return asked


def plain_s2(content: bytes) -> bytes:
    """Write an S2 stream that compresses nothing."""
    pieces = [content[at : at + 60_000] for at in range(0, len(content), 60_000)]
    return S2_HEAD + b"".join(chunk(0x01, bytes(4) + piece) for piece in pieces)


S2_HEAD = b"\xff\x06\x00\x00S2sTwO"


def chunk(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(3, "little") + content


def old_backup(store: Path, files: dict[str, bytes] | None = None) -> bytes:
    """Write a store folder as servers before 2.15 backed it up, with some other `files` in it."""
    held = {
        str(path.relative_to(store)): path.read_bytes()
        for path in [
            store / "meta.inf",
            store / "meta.sum",
            *sorted((store / "msgs").glob("*.blk")),
        ]
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (held | (files or {})).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = {"mtime": "1590000000.123456789"}
            tar.addfile(member, io.BytesIO(data))
    return plain_s2(content.getvalue())


def message(seq: int, body: bytes = b"", headers: bytes = b"", subject: bytes = b"s") -> bytes:
    """Write a record of a block."""
    length = 22 + len(subject) + len(body) + 8
    if headers:
        length = (length + 4 + len(headers)) | 1 << 31
        body = struct.pack("<I", len(headers)) + headers + body
    return struct.pack("<IQqH", length, seq, 7, len(subject)) + subject + body + bytes(8)


async def test_a_stopped_servers_folder_holds_every_event_byte_for_byte(
    nats_server: EmbeddedServer, connection: Connection, log: Log
) -> None:
    appended = await append_odd(connection)
    answered = await live(log)
    await connection.close()
    await nats_server.stop()
    folder = stream_folder(nats_server)
    assert len(list((folder / "msgs").glob("*.blk"))) > 1
    for path in (folder, folder.parent, nats_server.folder):
        entries = list(read_backup(path))
        assert contents(entries) == appended
        assert entries == answered
    assert list(read_blocks(folder / "msgs")) == answered


async def test_a_folder_copied_while_the_server_runs_holds_all_that_was_acknowledged(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    appended = await append_odd(connection)
    shutil.copytree(nats_server.folder, tmp_path / "copy")
    await connection.client.jetstream().publish("nebula.events.later", b"{}")
    assert contents(read_backup(tmp_path / "copy")) == appended
    assert contents(read_backup(nats_server.folder))[: len(appended)] == appended


@pytest.mark.parametrize("chunk_size", [0, 1024])
async def test_a_backup_of_the_stream_holds_every_event_byte_for_byte(
    connection: Connection, log: Log, tmp_path: Path, chunk_size: int
) -> None:
    appended = await append_odd(connection)
    jetstream = connection.client.jetstream()
    await jetstream.pull_subscribe("nebula.events.>", durable="reader", stream=streams.EVENTS)
    folder = tmp_path / "backups" / streams.EVENTS
    assert await take_backup(connection, folder, chunk_size=chunk_size) > 10
    answered = await live(log)
    for path in (folder, folder / ARCHIVE, folder.parent):
        entries = list(read_backup(path))
        assert contents(entries) == appended
        assert entries == answered


async def test_a_backup_without_its_description_is_read(
    connection: Connection, log: Log, tmp_path: Path
) -> None:
    await append_odd(connection)
    await take_backup(connection, tmp_path / "backup")
    (tmp_path / "backup" / "backup.json").unlink()
    assert list(read_backup(tmp_path / "backup")) == await live(log)


async def test_an_empty_log_is_read_as_one(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    await take_backup(connection, tmp_path / "backup")
    assert list(read_backup(tmp_path / "backup")) == []
    assert list(read_backup(nats_server.folder)) == []
    await connection.close()
    await nats_server.stop()
    assert list(read_backup(nats_server.folder)) == []


async def test_an_imported_event_is_given_as_it_was_where_it_came_from(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    was = Entry(1, 1_700_000_000_000_000_000, "nebula.events.x", header_block({"A": "b"}), b"{}")
    await connection.client.jetstream().publish(was.subject, was.body, headers=wrapped(was))
    await take_backup(connection, tmp_path / "backup")
    assert list(read_backup(tmp_path / "backup")) == [was]
    assert list(read_backup(nats_server.folder)) == [was]


async def test_the_backups_of_older_servers_are_read_too(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    appended = await append_odd(connection)
    file = tmp_path / ARCHIVE
    file.write_bytes(old_backup(stream_folder(nats_server)))
    assert contents(read_backup(file)) == appended
    whole = file.read_bytes()
    for length in (len(whole) - 600, len(whole) // 2, 700, 11):
        file.write_bytes(whole[:length])
        with pytest.raises(Unreadable, match=rf"{ARCHIVE}: .*cut off at byte \d+"):
            list(read_backup(file))
    file.write_bytes(old_backup(stream_folder(nats_server), {"errors.txt": b"disk on fire"}))
    with pytest.raises(Unreadable, match=f"{ARCHIVE}: errors.txt: .*: disk on fire"):
        list(read_backup(file))


async def test_an_old_backup_that_lost_its_end_between_two_files_is_reported(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    await append_odd(connection)
    pieces = b"".join(s2.decompressed(io.BytesIO(old_backup(stream_folder(nats_server)))))
    with tarfile.open(fileobj=io.BytesIO(pieces)) as tar:
        last = tar.getmembers()[-1]
    file = tmp_path / ARCHIVE
    file.write_bytes(plain_s2(pieces[: last.offset]))
    with pytest.raises(Unreadable, match=f"cut off at byte {last.offset}"):
        list(read_backup(file))
    file.write_bytes(plain_s2(pieces[: last.offset] + b"x" * 2048))
    with pytest.raises(Unreadable, match=f"{ARCHIVE}: not a backup: .* at byte {last.offset}"):
        list(read_backup(file))


async def test_a_block_that_was_cut_off_is_named_with_the_byte(
    nats_server: EmbeddedServer, connection: Connection, log: Log
) -> None:
    appended = await append_odd(connection)
    await connection.close()
    await nats_server.stop()
    block = max((stream_folder(nats_server) / "msgs").glob("*.blk"), key=lambda path: path.stem)
    whole = block.read_bytes()
    for lost in (1, 8, 9, 31):
        block.write_bytes(whole[:-lost])
        given: list[Entry] = []
        with pytest.raises(Unreadable, match=rf"{block.name}: .* cut off at byte \d+"):
            given.extend(read_backup(nats_server.folder))
        assert contents(given) == appended[:-1]


async def test_a_backup_that_was_cut_off_is_never_taken_for_a_whole_one(
    connection: Connection, log: Log, tmp_path: Path
) -> None:
    await append_odd(connection)
    await take_backup(connection, tmp_path / "backup")
    file = tmp_path / "backup" / ARCHIVE
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 14):
        file.write_bytes(whole[:length])
        with pytest.raises(Unreadable, match=rf"{ARCHIVE}: .*cut off at byte \d+"):
            list(read_backup(tmp_path / "backup"))
    content = b"".join(s2.decompressed(io.BytesIO(whole)))
    assert content.endswith(bytes(5))
    for length in (len(content) - 5, len(content) - 1, 100, 8):
        file.write_bytes(plain_s2(content[:length]))
        with pytest.raises(Unreadable, match=rf"{ARCHIVE}: .*cut off at byte \d+"):
            list(read_backup(file))


@pytest.mark.parametrize("no_erase", [True, False])
async def test_a_message_that_was_deleted_from_the_log_is_reported(
    nats_server: EmbeddedServer, connection: Connection, no_erase: bool
) -> None:
    jetstream = connection.client.jetstream()
    await jetstream.add_stream(StreamConfig(name=streams.EVENTS, subjects=["nebula.events.>"]))
    for number in range(1, 6):
        await jetstream.publish("nebula.events.x", b"%d" % number)
    blocks = stream_folder(nats_server) / "msgs"
    request = json.dumps({"seq": 3, "no_erase": no_erase}).encode()
    answer = await connection.client.request(
        f"$JS.API.STREAM.MSG.DELETE.{streams.EVENTS}", request, timeout=PATIENCE
    )
    assert json.loads(answer.data)["success"]
    with pytest.raises(Unreadable, match=r"1\.blk: sequence 3 was deleted at byte \d+"):
        list(read_blocks(blocks))


async def test_the_backup_of_another_stream_is_refused(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    jetstream = connection.client.jetstream()
    await jetstream.add_stream(StreamConfig(name="ORDERS", subjects=["orders"]))
    await jetstream.publish("orders", b"{}")
    await take_backup(connection, tmp_path / "backup", stream="ORDERS")
    with pytest.raises(Unreadable, match=r"backup\.json: this is the stream ORDERS, not NEBULA"):
        list(read_backup(tmp_path / "backup"))
    folder = stream_folder(nats_server).with_name("ORDERS")
    with pytest.raises(Unreadable, match=r"meta\.inf: this is the stream ORDERS, not NEBULA"):
        list(read_backup(folder))


async def test_a_folder_with_two_logs_is_refused_and_both_are_named(
    nats_server: EmbeddedServer, connection: Connection, log: Log, tmp_path: Path
) -> None:
    shutil.copytree(stream_folder(nats_server), tmp_path / "all" / "one" / streams.EVENTS)
    await take_backup(connection, tmp_path / "all" / "two" / streams.EVENTS)
    with pytest.raises(Unreadable, match=r"all: .* 2 times: .*/one/.*, .*/two/.*"):
        list(read_backup(tmp_path / "all"))


def test_of_many_logs_in_a_folder_three_are_named(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number) / streams.EVENTS / "msgs").mkdir(parents=True)
        (tmp_path / str(number) / streams.EVENTS / "meta.inf").write_text("")
    with pytest.raises(Unreadable, match=r"5 times: \S+/0/\S+, \S+/1/\S+, \S+/2/\S+, …$"):
        list(read_backup(tmp_path))


def test_what_is_not_a_backup_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Unreadable, match="empty: there is no stream NEBULA_EVENTS in it"):
        list(read_backup(empty))
    with pytest.raises(Unreadable, match="nowhere: there is no such file or folder"):
        list(read_backup(tmp_path / "nowhere"))
    with pytest.raises(Unreadable, match="nowhere: No such file or directory"):
        list(read_blocks(tmp_path / "nowhere"))
    for content in (b"", b"S2", os.urandom(5000), b"{}\n" * 500):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(Unreadable, match="file: no S2 stream begins at byte 0"):
            list(read_backup(tmp_path / "file"))
    for content in (b"x" * 5000, b"NATSARC1" + b"\xff" * 5000):
        (tmp_path / "file").write_bytes(plain_s2(content))
        with pytest.raises(Unreadable, match=r"file: no.* at byte \d+"):
            list(read_backup(tmp_path / "file"))


def test_a_store_folder_without_a_readable_description_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / streams.EVENTS
    (folder / "msgs").mkdir(parents=True)
    with pytest.raises(Unreadable, match="there is no stream NEBULA_EVENTS in it"):
        list(read_backup(folder))
    (folder / "meta.inf").write_bytes(b"{")
    with pytest.raises(Unreadable, match=r"meta\.inf: this does not describe a stream"):
        list(read_backup(folder))


def test_a_block_is_read_with_and_without_headers_and_from_a_view() -> None:
    data = message(1, b"one") + message(2, b"two", b"NATS/1.0\r\nA: b\r\n\r\n")
    expected = [
        Entry(1, 7, "s", b"", b"one"),
        Entry(2, 7, "s", b"NATS/1.0\r\nA: b\r\n\r\n", b"two"),
    ]
    assert list(parse_block(data, "1.blk")) == expected
    assert list(parse_block(memoryview(data), "1.blk")) == expected


def test_blocks_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11):
        (tmp_path / f"{number}.blk").write_bytes(message(number))
    (tmp_path / "12.blk.tmp").write_bytes(b"half written")
    (tmp_path / "index.db").write_bytes(b"something else")
    assert [entry.seq for entry in read_blocks(tmp_path)] == [1, 2, 9, 10, 11]


def test_erased_messages_are_left_out_and_tombstones_of_unknown_ones_skipped() -> None:
    data = message(1) + message(2 | 1 << 63) + message(3) + message(4 | 1 << 62, subject=b"")
    assert [entry.seq for entry in parse_block(data, "1.blk")] == [1, 3]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (message(1) + b"\x00" * 40, "no message begins at byte 31"),
        (message(1) + b"\xff" * 40, "no message begins at byte 31"),
        (message(1) + b"\x16", "a message is cut off at byte 31"),
        (message(1) + message(2, b"body")[:-1], "a message is cut off at byte 31"),
        (message(1) + message(2, b"body", b"NATS/1.0\r\n\r\n")[:30], "cut off at byte 31"),
        (
            message(1, subject=b"s" * 40)[:20] + b"\xff\xff" + bytes(60),
            "no message begins at byte 0",
        ),
        (message(1, b"", b"h" * 9).replace(b"\x09\0\0\0h", b"\x99\0\0\0h"), "no message begins at"),
        (message(2) + message(1), "sequence 1 follows 2 at byte 31"),
        (message(1) + message(1), "sequence 1 follows 1 at byte 31"),
        (b"cmp\x01" + bytes(100), "the messages are compressed at byte 0"),
    ],
)
def test_a_block_that_makes_no_sense_is_named_with_the_byte(data: bytes, problem: str) -> None:
    with pytest.raises(Unreadable, match=rf"^folder/1\.blk: .*{problem}"):
        list(parse_block(data, "folder/1.blk"))


def test_an_encrypted_block_is_told_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "1.blk").write_bytes(os.urandom(500))
    (tmp_path / "1.key").write_bytes(os.urandom(64))
    with pytest.raises(Unreadable, match=r"1\.blk: the messages are encrypted"):
        list(read_blocks(tmp_path))


def compressed(size: int, elements: bytes) -> bytes:
    """Write a chunk of an S2 stream that holds these elements of one block."""
    count = b""
    while size >= 0x80:
        count, size = count + bytes([size & 0x7F | 0x80]), size >> 7
    return chunk(0x00, bytes(4) + count + bytes([size]) + elements)


def literal(content: bytes) -> bytes:
    length = len(content) - 1
    if length < 60:
        return bytes([length << 2]) + content
    width = (length.bit_length() + 7) // 8
    return bytes([59 + width << 2]) + length.to_bytes(width, "little") + content


LONG = bytes(range(256)) * 300


@pytest.mark.parametrize(
    ("elements", "content"),
    [
        (literal(b"abc"), b"abc"),
        (literal(LONG[:61]), LONG[:61]),
        (literal(LONG[:300]), LONG[:300]),
        (literal(LONG), LONG),
        (literal(b"abcd") + b"\x01\x04", b"abcdabcd"),
        (literal(b"ab") + b"\x1d\x02", b"ab" + b"ababababab" + b"a"),
        (literal(LONG[:300]) + b"\x21\x00", LONG[:300] + LONG[44:48]),
        (literal(b"abcd") + b"\x0e\x02\x00", b"abcdcdcd"),
        (literal(b"abcd") + b"\x0f\x02\x00\x00\x00", b"abcdcdcd"),
        (literal(b"ab") + b"\x01\x02\x01\x00", b"abababababab"[:10]),
        (literal(b"ab") + b"\x01\x02\x11\x00", b"ab" * 7),
        (literal(b"ab") + b"\x01\x02\x15\x00\x02", b"ab" * 8),
        (literal(b"ab") + b"\x01\x02\x19\x00\x00\x01", b"ab" * 261),
        (literal(b"ab") + b"\x01\x02\x1d\x00\x00\x00\x01", b"ab" * (3 + (65540 + 65536) // 2)),
    ],
)
def test_every_element_of_s2_is_decoded(elements: bytes, content: bytes) -> None:
    stream = S2_HEAD + compressed(len(content), elements)
    assert b"".join(s2.decompressed(io.BytesIO(stream))) == content


def test_the_chunks_of_s2_that_mean_nothing_are_skipped_and_streams_may_follow_each_other() -> None:
    stream = S2_HEAD + chunk(0xFE, bytes(50)) + chunk(0x01, b"sum!plain") + chunk(0x99, b"index")
    stream += b"\xff\x06\x00\x00sNaPpY" + compressed(4, literal(b"more"))
    assert list(s2.decompressed(io.BytesIO(stream))) == [b"plain", b"more"]


BROKEN: list[tuple[str, Callable[[], bytes], int]] = [
    ("an unknown chunk", lambda: chunk(0x02, b"what is this"), 10),
    ("another identifier", lambda: chunk(0xFF, b"SnAp!!"), 10),
    ("a chunk without a block", lambda: chunk(0x00, b"sum!"), 10),
    ("a size without end", lambda: chunk(0x00, b"sum!" + b"\xff" * 20), 10),
    ("a size beyond all blocks", lambda: compressed(1 << 40, literal(b"abc")), 10),
    ("less than promised", lambda: compressed(4, literal(b"abc")), 10),
    ("more than promised", lambda: compressed(2, literal(b"abc")), 10),
    ("a literal that is cut off", lambda: compressed(60, literal(b"a" * 60)[:-1]), 10),
    ("a copy that is cut off", lambda: compressed(8, literal(b"abcd") + b"\x01"), 10),
    ("a repeat of nothing", lambda: compressed(8, literal(b"abcd") + b"\x01\x00"), 10),
    ("a copy from before", lambda: compressed(8, literal(b"abcd") + b"\x01\x05"), 10),
    (
        "a repeat beyond the block",
        lambda: compressed(9, literal(b"ab") + b"\x01\x02\x1d\x00\xff\xff\xff"),
        10,
    ),
    ("a second chunk", lambda: compressed(3, literal(b"abc")) + chunk(0x7F, b""), 23),
]


@pytest.mark.parametrize(
    ("make", "offset"), [each[1:] for each in BROKEN], ids=[b[0] for b in BROKEN]
)
def test_broken_s2_is_reported_with_the_byte_of_the_chunk(
    make: Callable[[], bytes], offset: int
) -> None:
    with pytest.raises(s2.Corrupt, match=f"is not valid at byte {offset}$"):
        list(s2.decompressed(io.BytesIO(S2_HEAD + make())))
