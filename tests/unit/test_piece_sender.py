"""An engine's pieces: those of one turn for one gateway leave together, and all in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from nats.errors import OutboundBufferLimitError

from nebula.actors.engine.bundling import MOST, PieceSender
from nebula.events import bundles, piece_envelope
from nebula.events.inference import Request
from nebula.events.reading import last_token

LARGE = bundles.FITS + 1


class Client:
    """Stands where the connection and its client stand."""

    def __init__(self) -> None:
        self.client = self
        self.max_body = 2**20
        self.posted: list[tuple[str, bytes, bytes]] = []
        self.left = 0
        self.refuses = False
        self._before: list[Callable[[], None]] = []

    def post(self, subject: str, header: bytes, body: bytes) -> None:
        if self.refuses:
            raise OutboundBufferLimitError
        self.posted.append((subject, header, body))

    def before_write(self, call: Callable[[], None]) -> None:
        self._before.append(call)

    def pass_on(self) -> None:
        self.left = len(self.posted)

    def turn_ends(self) -> None:
        for call in self._before:
            call()
        self._before.clear()
        self.pass_on()

    def heard(self, gateway: str) -> list[tuple[str, int, bytes]]:
        """All pieces that a gateway hears, in order: request, number, body."""
        found = []
        for subject, header, body in self.posted:
            _, _, kind, whose, *_ = subject.split(".")
            if whose != gateway:
                continue
            if kind == "bundles":
                assert subject == f"nebula.inference.bundles.{gateway}.chat.chat-0"
                for request, head, part in bundles.read(header, body):
                    assert isinstance(head, int)
                    found.append((request, head, part))
            else:
                chunk = piece_envelope.read_plain(header)
                assert chunk is not None
                found.append((last_token(subject.encode()), chunk, body))
        return found


def sender() -> tuple[PieceSender, Client]:
    client = Client()
    return PieceSender(cast("Any", client), "chat", "chat-0"), client


def request(identity: str = "r", gateway: str = "g", **fields: Any) -> Request:
    return Request(identity, gateway, "chat", "/", b"", **{"bundled": True, **fields})


sent = st.tuples(st.sampled_from("gh"), st.sampled_from("abc"), st.sampled_from([0, 3, LARGE]))


@given(st.lists(st.lists(sent, max_size=2 * MOST), max_size=4))
def test_each_gateway_hears_its_pieces_in_the_order_in_which_they_were_made(
    turns: Sequence[Sequence[tuple[str, str, int]]],
) -> None:
    pieces, client = sender()
    made: dict[str, list[tuple[str, int, bytes]]] = {"g": [], "h": []}
    for turn in turns:
        for gateway, identity, size in turn:
            chunk, body = len(made[gateway]), b"x" * size
            pieces.send(request(identity, gateway), chunk, body)
            made[gateway].append((identity, chunk, body))
        client.turn_ends()
    assert {gateway: client.heard(gateway) for gateway in made} == made


def test_the_pieces_of_a_turn_are_one_message_for_each_gateway() -> None:
    pieces, client = sender()
    for identity, gateway in (("a", "g"), ("b", "h"), ("c", "g"), ("d", "h")):
        pieces.send(request(identity, gateway), 1, b"x")
    assert not client.posted
    client.turn_ends()
    assert [subject.split(".")[2:4] for subject, _, _ in client.posted] == [
        ["bundles", "g"],
        ["bundles", "h"],
    ]


def test_a_piece_that_is_alone_has_a_message_of_its_own() -> None:
    pieces, client = sender()
    pieces.send(request(), 1, b"x")
    client.turn_ends()
    assert [subject for subject, _, _ in client.posted] == ["nebula.inference.responses.g.r"]


def test_pieces_that_must_be_found_by_their_request_are_not_bundled() -> None:
    """Those of a request that another gateway may resume, or of a gateway of an earlier version."""
    pieces, client = sender()
    pieces.send(request(keep=True), 1, b"x")
    pieces.send(request(bundled=False), 1, b"x")
    assert [subject.split(".")[2] for subject, _, _ in client.posted] == ["responses"] * 2


def test_a_long_turn_does_not_keep_its_first_pieces() -> None:
    pieces, client = sender()
    for number in range(MOST):
        pieces.send(request(f"r{number}"), 1, b"x")
    assert client.left == 1
    client.turn_ends()
    assert len(client.posted) == 1


def test_what_is_too_large_for_one_message_of_the_server_is_sent_in_several() -> None:
    pieces, client = sender()
    client.max_body = 1024
    made = [(f"r{number}", number, b"x" * 600) for number in range(4)]
    for identity, chunk, body in made:
        pieces.send(request(identity), chunk, body)
    client.turn_ends()
    assert client.heard("g") == made
    assert max(len(body) for _, _, body in client.posted) == 600


def test_what_waits_for_the_end_of_the_turn_can_be_sent_before_it() -> None:
    pieces, client = sender()
    pieces.send(request("a"), 1, b"x")
    pieces.tell()
    assert len(client.posted) == 1
    client.turn_ends()
    assert len(client.posted) == 1


def test_pieces_that_nats_does_not_take_stop_nothing() -> None:
    pieces, client = sender()
    client.refuses = True
    pieces.send(request("a"), 1, b"x")
    pieces.send(request("b"), 1, b"x")
    client.turn_ends()
    client.refuses = False
    pieces.send(request("a"), 2, b"y")
    client.turn_ends()
    assert client.heard("g") == [("a", 2, b"y")]
