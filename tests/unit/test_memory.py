"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import memory
from nebula.events.memory import GIB, MIB


@pytest.mark.parametrize(
    ("amount", "size"),
    [
        (1, 1),
        (2**63 - 1, 2**63 - 1),
        ("4096", 4096),
        ("4096B", 4096),
        ("512MiB", 512 * MIB),
        ("6GiB", 6 * GIB),
        ("6gib", 6 * GIB),
        (" 6 GiB ", 6 * GIB),
        ("0.5GiB", 512 * MIB),
        ("2TiB", 2048 * GIB),
        ("1KiB", 1024),
        ("1KB", 1000),
        ("1MB", 10**6),
        ("1.5GB", 1_500_000_000),
    ],
)
def test_an_amount_is_read(amount: int | str, size: int) -> None:
    assert memory.parse(amount) == size


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "GiB",
        "much",
        "-1GiB",
        "1e3",
        "nan",
        "inf",
        "6 Gi B",
        "6Gi",
        "1,5GiB",
        "1.GiB",
        ".5GiB",
        "٦GiB",
        "6GiB\0",
        "9" * 400,
        0,
        -1,
        "0",
        "0.0000001",
        "0GiB",
        2**63,
        10**30,
        "999999999999999TiB",
    ],
)
def test_anything_else_is_refused_in_words_that_name_the_field(amount: int | str) -> None:
    with pytest.raises(ValueError, match=r"^memory: .*(is no amount|is out of range)"):
        memory.parse(amount)


@given(st.one_of(st.text(), st.integers()))
def test_whatever_is_given_there_is_a_size_or_a_value_error(amount: int | str) -> None:
    try:
        size = memory.parse(amount)
    except ValueError:
        return
    assert 0 < size < 2**63


@given(st.integers(1, 2**53))
def test_plain_bytes_are_read_as_they_are(size: int) -> None:
    assert memory.parse(size) == size
    if size < 10**15:
        assert memory.parse(str(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 GiB"), (GIB, "1.0 GiB"), (int(1.26 * GIB), "1.3 GiB"), (80 * GIB, "80.0 GiB")],
)
def test_an_amount_is_written_for_people(size: int, text: str) -> None:
    assert memory.text(size) == text
