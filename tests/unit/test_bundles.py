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
    lines, bodies = [], []
    for number, (request, part) in enumerate(parts):
        body = part.body if isinstance(part, Piece) else b"x" * number
        head = replace(part, body=b"") if isinstance(part, Piece) else part
        lines.append(bundles.line(request, head, len(body)))
        bodies.append(body)
    return bundles.block(lines), b"".join(bodies)


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
    header = bundles.block([b"Nebula-Piece: %b %b %b\r\n" % part for part in parts])
    assert sum(len(part) for _, _, part in bundles.read(header, body)) <= len(body)


def test_a_piece_that_is_not_valid_ends_the_bundle() -> None:
    good, bad = bundles.line("r", 7, 1), b"Nebula-Piece: r 1 {}\r\n"
    assert list(bundles.read(bundles.block([good, bad, good]), b"abc")) == [("r", 7, b"a")]


def test_a_piece_with_a_large_body_or_large_headers_does_not_fit() -> None:
    assert bundles.fits(3, b"x" * bundles.FITS)
    assert not bundles.fits(3, b"x" * (bundles.FITS + 1))
    assert not bundles.fits(Piece(0, fields=(("x-a", "b"),)), b"")
    assert not bundles.fits(Piece(0, content_type="x" * 1000), b"")
