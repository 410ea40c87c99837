"""Exported logs: byte for byte there and back, and whatever is changed on the way is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.original import original, wrapped
from nebula.events.record import Entry, read_entry
from nebula.store.archive import BadArchive, Reader, Writer, write
from nebula.store.importing import NotTaken, size_of
from tests.unit.story import cluster, load

_times = st.integers(0, 4 * 10**18)
_headers = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(["Nebula-Cause", "A", "x"]), st.text(max_size=8)).map(
        lambda pairs: (
            b"NATS/1.0\r\n"
            + b"".join(f"{key}: {value}\r\n".encode() for key, value in pairs.items())
            + b"\r\n"
        )
    ),
)
_bodies = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.sampled_from([b"{}", b'{"a": 1}', b' {"a":1}', b"[1,\n2]", b"null", b"1e999", b'"\\u0000"']),
)
_contents = st.lists(st.tuples(_times, st.text("ab.*>", max_size=9), _headers, _bodies), max_size=6)
logs = _contents.map(lambda said: [Entry(number, *each) for number, each in enumerate(said, 1)])


def exported(entries: list[Entry]) -> bytes:
    return b"".join(write(entries, len(entries)))


def read(data: bytes, until: int | None = None) -> list[Entry]:
    return list(Reader(BytesIO(data), "log.jsonl", until).entries())


def story() -> list[Entry]:
    told = cluster(alpha=[80]).given("chat", load(1, "8GiB", name="chät"))
    told.settles()
    return told.runs("chat-0").entries


# There and back


@given(logs)
def test_every_entry_comes_back_byte_for_byte(entries: list[Entry]) -> None:
    assert read(exported(entries)) == entries


@given(logs)
def test_a_log_always_gives_the_same_file(entries: list[Entry]) -> None:
    assert exported(read(exported(entries))) == exported(entries)


@given(logs)
def test_records_are_those_of_the_entries(entries: list[Entry]) -> None:
    understood = list(Reader(BytesIO(exported(entries)), "log.jsonl").records())
    assert understood == [read_entry(each) for each in entries]


@given(_times, _headers, _bodies)
def test_an_imported_entry_keeps_its_time_and_headers(
    time: int, headers: bytes, body: bytes
) -> None:
    entry = Entry(3, time, "nebula.events.model.chat.X", headers, body)
    lines = "".join(f"{key}: {value}\r\n" for key, value in wrapped(entry).items())
    stored = Entry(3, 1, entry.subject, f"NATS/1.0\r\n{lines}\r\n".encode(), body)
    assert original(stored) == entry


@pytest.mark.parametrize("value", ["", "x", "-1", "1 !", "1" * 20, "1 YQ"])
def test_a_mark_of_an_import_that_makes_no_sense_changes_nothing(value: str) -> None:
    entry = Entry(3, 1, "s", f"NATS/1.0\r\nNebula-Original: {value}\r\n\r\n".encode(), b"")
    assert original(entry) == entry


def test_a_person_can_read_a_line() -> None:
    lines = exported(story()).decode().splitlines()
    assert lines[0].startswith('{"nebula":"log","format":1,"last":5,')
    assert lines[2].startswith(
        '{"seq":2,"time":"1970-01-01T00:00:02.000000000Z",'
        '"subject":"nebula.events.model.chat.ModelLoadRequested",'
    )
    assert '"name":"chät"' in lines[2]


def test_reading_ends_where_it_is_told_to() -> None:
    data = exported(story())
    assert read(data, until=2) == story()[:2]
    damaged_later = data[:-30]
    assert read(damaged_later, until=3) == story()[:3]


# What is noticed


@given(logs.filter(bool), st.data())
def test_no_byte_can_be_changed_unseen(entries: list[Entry], data: st.DataObject) -> None:
    file = bytearray(exported(entries))
    at = data.draw(st.integers(0, len(file) - 2))  # the last one ends the last line
    file[at] ^= data.draw(st.integers(1, 255))
    if bytes(file).rstrip(b"\r\n") == exported(entries).rstrip(b"\r\n"):
        return
    with pytest.raises(BadArchive, match=r"log\.jsonl"):
        read(bytes(file))


@given(logs.filter(bool), st.data())
def test_no_line_can_be_left_out_repeated_or_moved_unseen(
    entries: list[Entry], data: st.DataObject
) -> None:
    lines = exported(entries).splitlines(keepends=True)
    order = data.draw(
        st.lists(st.integers(0, len(lines) - 1), max_size=len(lines) + 1).filter(
            lambda order: order != list(range(len(lines)))
        )
    )
    with pytest.raises(BadArchive, match=r"log\.jsonl"):
        read(b"".join(lines[each] for each in order))


def _swap(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def _edit(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"8GiB", b"9GiB"), *lines[3:]]


DAMAGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a line that was edited": (_edit, "line 3: sequence 2 was changed, or the line before it"),
    "lines in another order": (_swap, "line 3: sequence 3 follows 1: lines are missing or in an"),
    "a line that is missing": (
        lambda lines: lines[:2] + lines[3:],
        "line 3: sequence 3 follows 1: lines are missing",
    ),
    "a line that stands twice": (
        lambda lines: lines[:3] + lines[2:],
        "line 4: found sequence 2 instead of 3",
    ),
    "a file that ends too soon": (lambda lines: lines[:4], "truncated: it ends after sequence 3"),
    "a line that ends too soon": (
        lambda lines: [*lines[:3], lines[3][:40]],
        "line 4: it has no chain at its end: it was cut off or changed",
    ),
    "lines behind the last": (
        lambda lines: [*lines, b"{}\n"],
        "line 7: the log ended with sequence 5 before it",
    ),
    "an empty file": (lambda lines: lines[:0], "log.jsonl is empty"),
    "no head": (lambda lines: lines[1:], "line 1: "),
    "anything else": (lambda _: [b"hello\n"], "line 1: this is not an exported log"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_by_line_and_sequence(damage: str) -> None:
    change, message = DAMAGES[damage]
    lines = exported(story()).splitlines(keepends=True)
    with pytest.raises(BadArchive, match=message):
        read(b"".join(change(lines)))


def resealed(lines: list[bytes]) -> bytes:
    """Return lines with a chain that fits, as a forger could make it."""
    chain, out = b"", []
    for line in lines:
        text = line.rstrip(b"\n").rpartition(b',"chain":')[0]
        chain = hashlib.sha256(chain + text).hexdigest().encode()
        out.append(text + b',"chain":"' + chain + b'"}\n')
    return b"".join(out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format":1', b'"format":2', "line 1: a 'log' of format 2; this Nebula reads"),
        (b'"nebula":"log"', b'"nebula":"cat"', "line 1: a 'cat' of format 1"),
        (b'"seq":3', b'"seq":4', "line 4: found sequence 4 instead of 3: the log has a hole"),
        (b'"time":"1970-01-01T00:00:02.', b'"time":"soon', "line 3: time: 'soon"),
        (b'"time":"1970-01-01T00:00:02.', b'"time":"1970-01-01 00:00:02.', "line 3: time: "),
        (b'"time":"1970-01-01T00:00:02.', b'"time":"1970-01-01T00:00: 2.', "line 3: time: "),
        (b"02.000000000Z", b"02. 00000000Z", "line 3: time: "),
        (b'"body":', b'"body_base64":"!","b":', "line 2: "),
        (b'"body":', b'"b":' + b"[" * 10**5 + b"]" * 10**5 + b',"body":', "line 2: its JSON is ne"),
        (b'"last":5', b'"last":-5', "line 1: no log ends with sequence -5"),
    ],
)
def test_a_file_with_a_chain_that_fits_may_still_be_none(
    old: bytes, new: bytes, message: str
) -> None:
    lines = exported(story()).replace(old, new, 1).splitlines(keepends=True)
    with pytest.raises(BadArchive, match=message):
        read(resealed(lines))


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 10**5])
def test_how_deep_json_may_be_where_it_is_read_does_not_matter(depth: int) -> None:
    entries = [Entry(1, 1, "s", b"", b"[" * depth + b"]" * depth)]
    data = exported(entries)

    def deep(calls: int) -> list[Entry]:
        return deep(calls - 1) if calls else read(data)

    assert deep(100) == entries


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize(("depth", "form"), [(200, b'"body":'), (201, b'"body_text":')])
def test_json_of_more_levels_than_every_python_reads_is_written_as_text(
    opening: bytes, closing: bytes, depth: int, form: bytes
) -> None:
    for levels in (depth, depth + 500 if b"text" in form else 1):
        entries = [Entry(1, 1, "s", b"", opening * levels + b"1" + closing * levels)]
        assert form in exported(entries)
        assert read(exported(entries)) == entries


def test_many_lists_beside_each_other_are_not_deep() -> None:
    assert b'"body":' in exported([Entry(1, 1, "s", b"", b"[" + b"[]," * 5000 + b"[]]")])


def test_reader_and_writer_end_with_the_same_chain() -> None:
    writer = Writer(5)
    lines = [writer.head, *map(writer.line, story())]
    reader = Reader(BytesIO(b"".join(lines)), "log.jsonl")
    assert list(reader.entries()) == story()
    assert reader.chain == writer.chain
    assert lines[-1].endswith(b'"chain":"' + writer.chain.encode() + b'"}\n')


# What can't be imported


@pytest.mark.parametrize(
    "subject",
    [
        "nebula.events.model.chat.ModelLoadRequested",
        "nebula.events.model.*.ModelLoadRequested",
        "nebula.events.x",
        "nebula.events.ä.chat",
    ],
)
def test_whatever_the_log_takes_can_be_imported(subject: str) -> None:
    assert size_of(Entry(1, 1, subject, b"", b"body")) > 4


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            Entry(1, 1, "foo.events.model.chat.X", b"", b""),
            ("'foo.events.model.chat.X' is not a subj"),
        ),
        (Entry(1, 1, "nebula.events.model.ch at.X", b"", b""), "is not a subject of the log"),
        (Entry(1, 1, "nebula.events.model.chat.X\r\n", b"", b""), "is not a subject of the log"),
        (Entry(1, 1, "nebula.events.model..X", b"", b""), "is not a subject of the log"),
        (Entry(1, 1, "nebula.events", b"", b""), "is not a subject of the log"),
        (Entry(1, 1, "", b"", b""), "'' is not a subject of the log"),
        (Entry(1, 1, "nebula.events." + "x" * 4000, b"", b""), "is not a subject of the log"),
        (Entry(1, -1, "nebula.events.x", b"", b""), "its time is not within 1970 to 2262"),
        (Entry(1, 2**63, "nebula.events.x", b"", b""), "its time is not within 1970 to 2262"),
        (Entry(1, 1, "nebula.events.x", b"x" * 60_000, b""), "its headers have 60000 bytes"),
    ],
)
def test_what_no_server_would_take_is_refused_before_it_is_asked(entry: Entry, reason: str) -> None:
    with pytest.raises(NotTaken, match=reason):
        size_of(entry)


@pytest.mark.parametrize("until", [0, 6, 99])
def test_a_sequence_that_is_not_in_the_file_is_named(until: int) -> None:
    with pytest.raises(BadArchive, match=f"has no sequence {until}: it holds 1 to 5"):
        read(exported(story()), until)
    with pytest.raises(BadArchive, match=f"has no sequence {until}: it holds an empty log"):
        read(exported([]), until)


@given(logs)
def test_a_file_that_lacks_any_of_its_last_lines_is_not_taken_for_whole(
    entries: list[Entry],
) -> None:
    lines = exported(entries).splitlines(keepends=True)
    for kept in range(1, len(lines)):
        reader = Reader(BytesIO(b"".join(lines[:kept])), "log")
        with pytest.raises(BadArchive, match=f"truncated: it ends after sequence {kept - 1}"):
            list(reader.entries())
