"""Compressed bodies: all that was put in comes out, in bounded steps, or what is wrong is told."""

import gzip
import zlib
from collections.abc import Callable, Sequence

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from nebula.http.codings import MOST, SLICE, BadCoding, Decoder, UnknownCoding, names


def _raw_deflate(data: bytes) -> bytes:
    squeezing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezing.compress(data) + squeezing.flush()


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "br": brotli.compress,
}


def decoded(codings: list[str], parts: Sequence[bytes]) -> bytes:
    decoder = Decoder(codings)
    body = b"".join(given for part in parts for given in decoder.take(part))
    decoder.end()
    return body


@given(
    st.binary(max_size=2000),
    st.integers(1, 300),
    st.lists(st.sampled_from(sorted(CODERS)), max_size=MOST),
    st.integers(1, 5000),
)
def test_what_was_put_in_comes_out_however_it_is_cut(
    some: bytes, times: int, codings: list[str], step: int
) -> None:
    coded = body = some * times
    for coding in codings:
        coded = CODERS[coding](coded)
    parts = [coded[at : at + step] for at in range(0, len(coded), step)]
    assert decoded(codings, parts) == body


@pytest.mark.parametrize("coding", [*CODERS, "raw"])
def test_a_bomb_comes_in_slices(coding: str) -> None:
    name = "deflate" if coding == "raw" else coding
    coded = (_raw_deflate if coding == "raw" else CODERS[coding])(bytes(20_000_000))
    whole = 0
    for given_ in Decoder([name]).take(coded):
        assert len(given_) <= 4 * SLICE
        whole += len(given_)
    assert whole == 20_000_000


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_body_that_was_cut_is_told_so(coding: str, cut: int) -> None:
    coded = CODERS[coding](b"some text that is long enough to be cut, " + bytes(range(256)))
    with pytest.raises(BadCoding, match="a part is missing"):
        decoded([coding], [coded[:-cut]])


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize(
    "body", [b'{"model":"chat"}', b"\x1f\x8b\x08" + b"\xff" * 30, b"\xff" * 99]
)
def test_what_is_not_what_it_says_is_told_so(coding: str, body: bytes) -> None:
    with pytest.raises(BadCoding):
        decoded([coding], [body])


@pytest.mark.parametrize("coding", CODERS)
def test_no_body_at_all_is_an_empty_one(coding: str) -> None:
    assert decoded([coding], [b""]) == b""


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_in_a_row_are_one(coding: str) -> None:
    assert decoded([coding], [CODERS[coding](b"one ") + CODERS[coding](b"two")]) == b"one two"


@pytest.mark.parametrize("coding", ["deflate", "br"])
def test_bytes_behind_the_end_are_refused(coding: str) -> None:
    with pytest.raises(BadCoding):
        decoded([coding], [CODERS[coding](b"one") + b"more"])


def test_a_deflate_without_zlibs_head_is_known() -> None:
    assert decoded(["deflate"], [_raw_deflate(b"hello " * 99)]) == b"hello " * 99


def test_a_window_larger_than_the_standard_allows_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    squeezing = zstd.ZstdCompressor(options=options)
    coded = squeezing.compress(bytes(1000)) + squeezing.flush()
    with pytest.raises(BadCoding, match="zstd"):
        decoded(["zstd"], [coded])


def test_names_are_read_as_they_are_written() -> None:
    assert names(b" GZIP , identity,, X-Gzip") == ["gzip", "x-gzip"]
    assert names(b"Identity") == names(b"") == []
    with pytest.raises(UnknownCoding, match="compress"):
        names(b"gzip, compress")
    with pytest.raises(UnknownCoding, match="at most 4"):
        names(b"gzip," * 5)
