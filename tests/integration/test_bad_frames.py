"""Whatever a client of a realtime session sends, it is told what is wrong, and nothing hangs."""

import asyncio
import json
import struct
from collections.abc import Iterator

import pytest
from websockets.frames import Opcode

from nebula.http.server.websocket import FRAGMENTS
from tests.integration.cluster import Cluster
from tests.integration.test_realtime import HEARS, PATH, hears, idle, says, session
from tests.integration.wire import Wire, request

pytestmark = pytest.mark.anyio

OFFER = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
MEBI = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("ears", task="transcription", memory="64MiB", options=HEARS)

    asyncio.run(load())


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: bool = False) -> bytes:
    """Return the bytes of one masked frame, valid or not."""
    first = (0x80 if fin else 0) | (0x40 if rsv else 0) | opcode
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([first]) + length + bytes(4) + data


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(Opcode.CLOSE, code.to_bytes(2) + reason)


def said(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the frames that a gateway has sent, as opcode and content."""
    while data:
        opcode, size, head = data[0] & 15, data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4]), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10]), 10
        yield opcode, data[head : head + size]
        data = data[head + size :]


def talk(cluster: Cluster, *sent: bytes) -> list[tuple[int, bytes]]:
    """Send frames in a session of their own; return what came until the gateway closed."""
    with Wire(cluster.port) as wire:
        wire.send(request(f"GET {PATH}?model=ears HTTP/1.1", *OFFER))
        wire.switched().send(b"".join(sent))
        return list(said(wire.rest()))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([frame(Opcode.CONT, b"x")], 1002),
        ([frame(Opcode.TEXT, b"{", fin=False), frame(Opcode.TEXT, b"}")], 1002),
        ([frame(Opcode.PING, b"x", fin=False)], 1002),
        ([frame(Opcode.PING, bytes(126))], 1002),
        ([frame(Opcode.TEXT, b"{}", rsv=True)], 1002),
        ([frame(3, b"x")], 1002),
        ([frame(11)], 1002),
        ([frame(Opcode.TEXT, b"\xed\xa0\x80")], 1007),
        ([frame(Opcode.TEXT, b"\xc3", fin=False), frame(Opcode.CONT, b"(")], 1007),
        (
            [frame(Opcode.TEXT, b"x" * MEBI, fin=False)] * 1
            + [frame(Opcode.CONT, b"x" * MEBI, fin=False)] * 16,
            1009,
        ),
        ([frame(Opcode.TEXT, b"{", fin=False)] + [frame(Opcode.CONT, fin=False)] * FRAGMENTS, 1009),
        ([frame(Opcode.CLOSE, b"\x03")], 1002),
        ([close(999)], 1002),
        ([close(1005)], 1002),
        ([close(1006)], 1002),
        ([close(5000)], 1002),
        ([close(1000, b"\xff")], 1007),
        ([close(1000, b"done")], 1000),
        ([close(4321)], 4321),
        ([frame(Opcode.CLOSE)], 0),
        ([close(1000), frame(Opcode.TEXT, b"{}"), close(1000)], 1000),
    ],
)
async def test_frames_that_break_the_protocol_end_the_session_with_its_code(
    cluster: Cluster, sent: list[bytes], code: int
) -> None:
    frames = await asyncio.to_thread(talk, cluster, *sent)
    opcode, last = frames[-1]
    assert opcode == Opcode.CLOSE
    assert int.from_bytes(last[:2]) == code
    assert code in (0, 1000, 4321) or last[2:]
    await idle(cluster)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "1",
        "{",
        "{}",
        '{"type": 1}',
        '{"type": null}',
        '{"type": ["session.update"]}',
        '{"type": "session.update"}',
        '{"type": "session.update", "model": {}}',
        '{"type": "session.update", "model": "\\ud800"}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": 7}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.commit"}',
        b"",
        b"\x00\xff",
        b'{"type": "session.update", "model": "ears"}',
    ],
)
async def test_a_message_that_makes_no_sense_is_answered_and_the_session_goes_on(
    cluster: Cluster, message: str | bytes
) -> None:
    async with session(cluster) as socket:
        await hears(socket)
        await socket.send(message)
        told = await hears(socket)
        assert told["type"] == "error"
        assert told["error"]
        await says(socket, {"type": "what"})
        assert (await hears(socket))["code"] == "unknown_event"
    await idle(cluster)


async def test_a_flood_of_pings_is_answered_and_held_back(cluster: Cluster) -> None:
    pings = [frame(Opcode.PING, b"%d" % number) for number in range(20_000)]
    frames = await asyncio.to_thread(talk, cluster, *pings, close(1000))
    pongs = [data for opcode, data in frames if opcode == Opcode.PONG]
    assert frames[-1][0] == Opcode.CLOSE
    assert pongs == [b"%d" % number for number in range(20_000)]
    await idle(cluster)


async def test_a_client_that_ends_its_side_without_a_close_is_gone(cluster: Cluster) -> None:
    def half() -> bytes:
        with Wire(cluster.port) as wire:
            wire.send(request(f"GET {PATH}?model=ears HTTP/1.1", *OFFER))
            wire.switched().end()
            return wire.rest()

    await asyncio.to_thread(half)
    await idle(cluster)


async def test_a_message_that_never_ends_holds_no_other_client_up(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        wire.send(request(f"GET {PATH}?model=ears HTTP/1.1", *OFFER))
        wire.switched().send(frame(Opcode.TEXT, b"{" + b" " * MEBI, fin=False))
        async with session(cluster) as socket:
            assert (await hears(socket))["type"] == "session.created"
            await socket.send(json.dumps({"type": "what"}))
            assert (await hears(socket))["code"] == "unknown_event"
    await idle(cluster)
