"""Server-sent events are found however a server ends its lines, and however the bytes are cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.openai import sse
from nebula.openai.sse import EventSplitter, data_of, ends_event

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
SIZES = st.lists(st.integers(1, 9), max_size=60)
DATA = st.lists(st.text(st.characters(exclude_characters="\r\n")).map(str.encode), max_size=6)


def cut(sent: bytes, sizes: Sequence[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(sent[:size])
        sent = sent[size:]
    return [*parts, sent]


def split(parts: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """What a splitter hands out, and what it keeps to the end."""
    splitter = EventSplitter()
    events = [event for part in parts for event in splitter.feed(part)]
    return events, splitter.flush()


@given(DATA, LINE_ENDS, SIZES)
def test_each_event_is_found_however_its_lines_end(
    said: list[bytes], end: bytes, sizes: list[int]
) -> None:
    sent = b"".join(b"data: %b%b%b" % (each, end, end) for each in said)
    events, rest = split(cut(sent, sizes))
    assert [data for event in events if (data := data_of(event)) is not None] == said
    assert b"".join(events) + rest == sent


@given(st.lists(st.sampled_from([b"\r", b"\n", b"data: a", b":", b"data:"])), SIZES)
def test_no_byte_is_lost_or_moved(said: list[bytes], sizes: list[int]) -> None:
    sent = b"".join(said)
    events, rest = split(cut(sent, sizes))
    assert b"".join(events) + rest == sent
    assert all(map(ends_event, events[:-1])) or b"\r" in sent


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\r\n\r\n", b" a"),
        (b": a comment\ndata: a\n\n", b"a"),
        (b"event: message\nid: 7\ndata: a\n\n", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", None),
        (b": a comment\n\n", None),
        (b"database: a\n\n", None),
        (b"\ndata: a\r\r", b"a"),
    ],
)
def test_an_event_says_what_its_lines_of_data_say(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_only_so_much_of_an_event_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST", 100)
    splitter = EventSplitter()
    given = [b"".join(splitter.feed(b"x" * 30)) for _ in range(9)]
    assert splitter.kept <= 100
    assert b"".join(given) + splitter.flush() == b"x" * 270
    assert splitter.kept == 0
