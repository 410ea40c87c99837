"""What the data plane's stream has of single requests is found, also what is in bundles."""

from __future__ import annotations

import pytest

from nebula.events import bundles, envelope, piece_envelope, subjects
from nebula.events.inference import Piece, Request, Routed
from nebula.store import request_log, streams
from nebula.store.connection import Connection
from nebula.store.inference_log import StoredMessage
from nebula.store.log import Log

pytestmark = pytest.mark.anyio

HEAD = Piece(0, status=200, content_type="text/event-stream", replica="chat-0")
END = Piece(2, end=True)


async def posted(connection: Connection, *said: tuple[str, bytes, bytes]) -> None:
    """Post messages, and wait until the stream has them."""
    jetstream = connection.client.jetstream()
    before = (await jetstream.stream_info(streams.INFERENCE)).state.messages
    for subject, header, body in said:
        connection.client.post(subject, header, body)
    await connection.client.flush()
    while (await jetstream.stream_info(streams.INFERENCE)).state.messages < before + len(said):
        pass


def asked(identity: str) -> tuple[str, bytes, bytes]:
    request = Request(identity, "gw", "chat", "/v1/completions", b"{}", bundled=True)
    block = envelope.routed_block(envelope.request_block(request), 1, Routed("r1", 1, ()))
    return subjects.replica_requests("chat", "chat-0"), block, request.body


def single(identity: str, head: int | Piece, body: bytes) -> tuple[str, bytes, bytes]:
    return subjects.responses("gw", identity), piece_envelope.head_block(head), body


def bundle(*parts: tuple[str, int | Piece, bytes], gateway: str = "gw") -> tuple[str, bytes, bytes]:
    return subjects.bundles(gateway, "chat", "chat-0"), *bundles.written(parts)


def read(said: StoredMessage) -> Piece | None:
    return piece_envelope.read(said.headers, said.body)


async def test_the_pieces_of_a_request_are_found_wherever_they_are(
    connection: Connection, log: Log
) -> None:
    await posted(
        connection,
        bundle(("r1", 7, b"of an earlier life"), ("r2", 1, b"x")),
        asked("r1"),
        bundle(("r2", HEAD, b"other"), ("r1", HEAD, b"first"), ("r2", 2, b"")),
        single("r1", 1, b"second"),
        bundle(("r1", 9, b"of another gateway"), ("r3", 1, b""), gateway="other"),
        bundle(("r1", END, b"third"), ("r2", 3, b"last")),
        bundle(("r1", 9, b"of a later life"), ("r2", 4, b"")),
    )
    found = await request_log.look_up(connection, "r1")
    assert [said.subject.split(".")[2] for said in found] == ["replicas", *["responses"] * 3]
    assert [said.size for said in found] == [2, 5, 6, 5]
    assert [read(said) for said in found[1:]] == [HEAD, Piece(1), END]
    assert [said.seq for said in found] == [2, 3, 4, 6]


async def test_missed_pieces_are_read_for_all_requests_at_once_but_not_those_that_came(
    connection: Connection, log: Log
) -> None:
    await posted(
        connection,
        bundle(("r1", HEAD, b"a"), ("r2", HEAD, b"b"), ("r3", HEAD, b"c")),
        bundle(("r2", 1, b"d"), ("r1", 1, b"e")),
        bundle(("r1", 9, b"no"), ("r2", 9, b"no"), gateway="other"),
        single("r1", END, b"alone"),
    )
    found = await request_log.missed(connection, "gw", {"r1": 0, "r2": 1}, 60.0)
    pieces = {request: [read(said) for said in parts] for request, parts in found.items()}
    r1, r2 = pieces["r1"], pieces["r2"]
    assert [piece and (piece.chunk, piece.body) for piece in r1] == [(0, b"a"), (1, b"e")]
    assert [piece and (piece.chunk, piece.body) for piece in r2] == [(1, b"d")]
    assert pieces.keys() == {"r1", "r2"}


async def test_what_is_older_than_it_can_be_missed_is_not_read(
    connection: Connection, log: Log
) -> None:
    await posted(connection, bundle(("r1", 1, b"a"), ("r2", 1, b"b")))
    assert await request_log.missed(connection, "gw", {"r1": 0}, 60.0)
    ahead = -request_log._MARGIN.total_seconds() - 60.0
    assert not await request_log.missed(connection, "gw", {"r1": 0}, ahead)
