"""Blocks of a server's store and its backups, byte by byte: what is damaged is never a log."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.store.backup import _uvarint
from nebula.store.blocks import Unreadable, parse_block


def message(seq: int, subject: bytes = b"nebula.events.x", headers: bytes = b"") -> bytes:
    """Return a record as nats-server writes it."""
    told = struct.pack("<I", len(headers)) + headers if headers else b""
    length = 22 + len(subject) + len(told) + 4 + 8
    flag = 1 << 31 if headers else 0
    head = struct.pack("<IQqH", length | flag, seq, (seq & 0xFF) * 10**9, len(subject))
    return head + subject + told + b"body" + b"checksum"


def seqs(*messages: bytes, after: int = 0) -> list[int]:
    return [each.seq for each in parse_block(b"".join(messages), "block", after)]


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nA: b\r\n\r\n"])
def test_what_is_in_a_block_comes_out_of_it(headers: bytes) -> None:
    (entry,) = parse_block(message(5, headers=headers), "block")
    assert (entry.seq, entry.time, entry.subject) == (5, 5 * 10**9, "nebula.events.x")
    assert (entry.headers, entry.body) == (headers, b"body")


def test_a_log_only_grows() -> None:
    assert seqs(message(1), message(3), message(4)) == [1, 3, 4]
    for wrong in ([message(1), message(1)], [message(2), message(1)]):
        with pytest.raises(Unreadable, match="follows"):
            seqs(*wrong)
    with pytest.raises(Unreadable, match="sequence 4 follows 4"):
        seqs(message(4), after=4)
    assert seqs(message(5), after=4) == [5]


def test_what_was_erased_is_left_out_and_a_deleted_message_is_an_error() -> None:
    erased, deleted = 1 << 63, 1 << 62
    assert seqs(message(1), message(2 | erased), message(3)) == [1, 3]
    assert seqs(message(1), message(deleted | 2)) == [1]
    with pytest.raises(Unreadable, match="sequence 1 was deleted"):
        seqs(message(1), message(deleted | 1))


@given(st.integers(1, 80))
def test_a_block_that_is_cut_off_is_told(cut: int) -> None:
    whole = message(1) + message(2)
    with pytest.raises(Unreadable, match=r"is cut off at byte|no message begins"):
        seqs(whole[: -(cut % (len(message(2)) - 1)) - 1])


def _written(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_a_number_of_any_size_is_read_to_its_end(value: int, after: bytes) -> None:
    written = _written(value)
    assert _uvarint(b"x" + written + after, 1) == (value, 1 + len(written))


def test_a_number_without_an_end_is_none() -> None:
    with pytest.raises(ValueError, match="too long"):
        _uvarint(b"\xff" * 12, 0)
    with pytest.raises(IndexError):
        _uvarint(b"\xff" * 3, 0)
