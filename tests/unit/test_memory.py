"""Amounts of memory as people write them."""

from __future__ import annotations

import re
from pathlib import Path

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
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (36_864, "36.0 KiB"),
        (MIB - 1, "1.0 MiB"),
        (64 * MIB, "64.0 MiB"),
        (GIB - 1, "1.0 GiB"),
        (GIB, "1.0 GiB"),
        (int(1.26 * GIB), "1.3 GiB"),
        (80 * GIB, "80.0 GiB"),
        (9000 * GIB, "9000.0 GiB"),
    ],
)
def test_an_amount_is_written_in_the_unit_that_fits(size: int, text: str) -> None:
    assert memory.text(size) == text
    assert memory.word(size) == text.replace(" ", "")


@given(st.integers(1, 2**53))
def test_what_is_written_is_read_as_nearly_the_same(size: int) -> None:
    read = memory.parse(memory.word(size))
    assert abs(read - size) <= max(size, 1024) * 0.051
    assert memory.text(read) == memory.text(size)


def test_a_part_is_written_in_the_unit_of_the_whole() -> None:
    assert memory.part_of(37 * GIB, 80 * GIB) == "37.0/80.0GiB"
    assert memory.part_of(0, 512 * MIB) == "0.0/512.0MiB"
    assert memory.part_of(0, 0) == "0.0/0B"


def test_shares_are_in_the_unit_of_the_whole_and_add_up() -> None:
    assert memory.shares(10 * GIB, 64 * MIB, 3 * GIB) == ("0.1 GiB", "3.0 GiB", "6.9 GiB")
    assert memory.shares(512 * MIB, 64 * MIB) == ("64.0 MiB", "448.0 MiB")
    assert memory.shares(GIB, 2 * GIB) == ("1.0 GiB", "0.0 GiB")
    assert memory.shares(0, 5) == ("0 B", "0 B")


def test_no_module_writes_sizes_in_a_way_of_its_own() -> None:
    own = re.compile(r"(GIB|MIB|2\*\*[23]0|1024 ?\*\* ?[23]):|>> ?[23]0\} [MG]iB")
    found = [
        f"{path}: {line.strip()}"
        for path in (Path(memory.__file__).parents[1]).rglob("*.py")
        if path.name != "memory.py"
        for line in path.read_text().splitlines()
        if own.search(line)
    ]
    assert found == []
