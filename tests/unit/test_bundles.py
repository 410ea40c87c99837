"""Bundles of pieces: what is written into one is what is read from it, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.events import bundles, piece_envelope
from nebula.events.inference import Piece
from tests.unit.test_envelope import pieces, tokens

told = st.lists(st.tuples(tokens, st.one_of(pieces, st.integers(0, 2**40))), max_size=8)


def written(parts: Sequence[tuple[str, int | Piece]]) -> tuple[bytes, bytes]:
    return bundles.written(
        [
            (request, replace(part, body=b""), part.body)
            if isinstance(part, Piece)
            else (request, part, b"x" * number)
            for number, (request, part) in enumerate(parts)
        ]
    )


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n%b\r\n" % b"".join(b"Nebula-Piece: %b\r\n" % line for line in lines)


@given(told)
def test_the_pieces_come_through_in_order(parts: list[tuple[str, int | Piece]]) -> None:
    header, body = written(parts)
    assert [
        (request, piece_envelope.with_body(head, part))
        for request, head, part in bundles.read(header, body)
    ] == [
        (request, part if isinstance(part, Piece) else Piece(part, b"x" * number))
        for number, (request, part) in enumerate(parts)
    ]


@given(told)
def test_a_header_block_alone_tells_all_but_the_bodies(
    parts: list[tuple[str, int | Piece]],
) -> None:
    header, body = written(parts)
    whole = [(request, head, len(part)) for request, head, part in bundles.read(header, body)]
    assert list(bundles.pieces(header)) == whole


@given(told, st.integers(1, 20))
def test_of_a_body_that_is_cut_no_piece_is_read_that_lacks_a_byte(
    parts: list[tuple[str, int | Piece]], cut: int
) -> None:
    header, body = written(parts)
    whole = list(bundles.read(header, body))
    some = list(bundles.read(header, body[:-cut]))
    assert some == whole[: len(some)]


lines = st.lists(
    st.tuples(
        st.one_of(tokens.map(str.encode), st.binary(max_size=5)),
        st.one_of(st.integers(-2, 2**70).map(b"%d".__mod__), st.binary(max_size=5)),
        st.one_of(st.binary(max_size=9), st.sampled_from([b"{}", b"[]", b'{"Nebula-Chunk":7}'])),
    ),
    max_size=5,
)


@given(lines, st.binary(max_size=40))
def test_whatever_the_lines_are_reading_them_never_raises(
    parts: list[tuple[bytes, bytes, bytes]], body: bytes
) -> None:
    header = block(*[b"%b %b %b" % part for part in parts])
    assert sum(len(part) for _, _, part in bundles.read(header, body)) <= len(body)


def test_a_piece_that_is_not_valid_ends_the_bundle() -> None:
    good, bad = b"r 1 7", b"r 1 {}"
    assert list(bundles.read(block(good, bad, good), b"abc")) == [("r", 7, b"a")]


def test_a_piece_with_a_large_body_or_large_headers_does_not_fit() -> None:
    assert bundles.fits(3, b"x" * bundles.FITS)
    assert not bundles.fits(3, b"x" * (bundles.FITS + 1))
    assert not bundles.fits(Piece(0, fields=(("x-a", "b"),)), b"")
    assert not bundles.fits(Piece(0, content_type="x" * 1000), b"")
