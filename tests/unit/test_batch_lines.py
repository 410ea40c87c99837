"""The files of a batch: input is cut and checked line by line, each result is one line."""

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.batch_facts import Problem
from nebula.openai import batch_lines
from nebula.openai.batch_lines import (
    InputCheck,
    InputLine,
    LineCutter,
    Place,
    TooLong,
    answered,
    body_of,
    unanswered,
)

PATH = "/v1/chat/completions"
MISSING = "missing_required_parameter"


def cut(chunks: list[bytes]) -> list[InputLine]:
    cutter = LineCutter()
    lines = [line for seq, chunk in enumerate(chunks, 1) for line in cutter.feed(seq, chunk)]
    return [*lines, *cutter.end()]


def at(place: Place, chunks: list[bytes]) -> bytes:
    """Return what is at a place, as a gateway reads it from the store."""
    found = chunks[place.chunk - 1][place.offset : place.offset + place.length]
    seq = place.chunk
    while len(found) < place.length:
        found += chunks[seq][: place.length - len(found)]
        seq += 1
    return found


def chunked(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [chunk for chunk in (*chunks, data) if chunk]


@given(
    st.lists(st.sampled_from([b"", b" ", b"a", b"bcd", b"x" * 30])),
    st.lists(st.integers(1, 20)),
)
def test_lines_are_those_of_the_file_however_it_is_stored(
    texts: list[bytes], sizes: list[int]
) -> None:
    chunks = chunked(b"\n".join(texts), sizes)
    found = cut(chunks)
    assert [(line.number, line.text) for line in found] == [
        (number, text) for number, text in enumerate(texts, 1) if text.strip()
    ]
    for line in found:
        assert at(line.place, chunks) == line.text


def test_a_line_without_an_end_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "LARGEST_LINE", 10)
    cutter = LineCutter()
    assert [line.number for line in cutter.feed(1, b"a\n123456")] == [1]
    with pytest.raises(TooLong) as caught:
        list(cutter.feed(2, b"789ab"))
    assert caught.value.args == (2,)


def written(custom_id: str, **fields: object) -> bytes:
    line = {"custom_id": custom_id, "method": "POST", "url": PATH, "body": {"model": "m"}}
    return json.dumps({**line, **fields}).encode()


def checked(*texts: bytes) -> InputCheck:
    check = InputCheck(PATH)
    for line in cut([b"\n".join(texts)]):
        check.take(line)
    check.finish()
    return check


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=15))
def test_every_custom_id_counts_once(ids: list[str]) -> None:
    check = checked(*(written(each) for each in ids))
    assert len(check.ids) == len(set(ids)) == len(set(check.ids.values()))
    assert len(check.problems) == len(ids) - len(set(ids))
    assert {each.code for each in check.problems} <= {"duplicate_custom_id"}
    assert check.places.keys() == check.ids.keys()


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5))
def test_any_bytes_are_lines_or_problems(texts: list[bytes]) -> None:
    check = checked(*texts)
    assert check.problems
    assert all(len(each.message) <= 300 for each in check.problems)


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xef\xbb\xbf" + written("a"), "invalid_json_line", None),
        (written("a").replace(b'"m"', b'"\xff"'), "invalid_json_line", None),
        (b"[1]", "invalid_line", None),
        (written("a", url=7), "invalid_line", "url"),
        (written(""), "missing_required_parameter", "custom_id"),
        (written("a", method="GET"), "invalid_method", "method"),
        (written("a", url="/v1/embeddings"), "invalid_url", "url"),
        (written("a", url=None), "missing_required_parameter", "url"),
        (written("a", body="text"), "invalid_body", "body"),
        (b'{"custom_id": "a", "method": "POST", "url": "%b"}' % PATH.encode(), MISSING, "body"),
        (written("a" * 513), "invalid_custom_id", "custom_id"),
    ],
)
def test_a_line_that_is_not_valid_is_told_with_its_number(
    text: bytes, code: str, param: str | None
) -> None:
    [problem] = checked(written("first"), text).problems
    assert (problem.code, problem.line, problem.param) == (code, 2, param)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (codecs.BOM_UTF8 + written("a"), "byte order mark"),
        (written("a").decode().encode("utf-16"), "is UTF-16"),
        (written("ä").decode().replace("\\u00e4", "ä").encode("latin-1"), "is not UTF-8"),
        (b"{", "must be on one line"),
        (b"[%b]" % written("a"), "each line must be one request"),
        (written("a").replace(b'"a"', b"7"), "custom_id must be a string"),
        (written("a", method="post"), "POST, not 'post'"),
        (written("a", url="/v1/embeddings"), "not '/v1/embeddings'"),
    ],
)
def test_the_first_line_says_what_is_to_mend(text: bytes, says: str) -> None:
    [problem] = checked(text).problems
    assert says in problem.message
    assert problem.line == 1


def test_an_empty_input_is_not_valid() -> None:
    assert [each.code for each in checked(b"", b" ").problems] == ["empty_file"]


def test_an_input_has_so_many_lines_and_is_told_so_many_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_lines, "MOST_LINES", 2)
    assert [each.code for each in checked(*map(written, "abc")).problems] == ["too_many_lines"]
    monkeypatch.setattr(batch_lines, "MOST_PROBLEMS", 3)
    check = InputCheck(PATH)
    for number in range(3):
        assert not check.enough
        check.take(InputLine(number, Place(1, 0, 1), b"x"))
    assert check.enough
    check.too_long(9)
    assert check.problems[-1] == Problem(
        "line_too_long", f"the line has more than {batch_lines.LARGEST_LINE} bytes", 9
    )


def test_the_body_goes_on_as_it_was_written() -> None:
    text = b'{"custom_id":"a","body":{"b" : 1.00,"a":"\\u00e9"},"method":"POST"}'
    assert body_of(text) == b'{"b" : 1.00,"a":"\\u00e9"}'


@given(st.binary(max_size=80), st.text(max_size=5), st.integers(200, 599))
def test_a_result_is_one_line_whatever_was_answered(
    body: bytes, custom_id: str, status: int
) -> None:
    line = answered("b", 3, custom_id, "r", status, body)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    found = json.loads(line)
    assert (found["custom_id"], found["error"]) == (custom_id, None)
    assert found["response"]["status_code"] == status


def test_an_answer_in_json_stays_json_on_one_line() -> None:
    line = json.loads(answered("b", 1, "a", "r", 200, b'{\n "x": [1,\n 2.50]\n}'))
    assert line["response"]["body"] == {"x": [1, 2.5]}


def test_lines_of_a_batch_have_ids_of_their_own_that_stay_the_same() -> None:
    def identity(batch: str, number: int) -> str:
        line = json.loads(unanswered(batch, number, "a", "batch_expired", "too late"))
        assert line["response"] is None
        assert line["error"] == {"code": "batch_expired", "message": "too late"}
        found: str = line["id"]
        return found

    assert identity("b", 1) == identity("b", 1)
    assert len({identity("b", 1), identity("b", 2), identity("c", 1)}) == 3
