"""A body that is not JSON is refused with what is wrong with it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.endpoints import CHAT
from nebula.http import outline
from nebula.http.errors import ApiError

GOOD = b'{"model": "chat", "messages": []}'
FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nchat\r\n--b--\r\n'


def refusal(body: bytes) -> str:
    with pytest.raises(ApiError) as refused:
        outline.read(CHAT, body)
    assert (refused.value.status, refused.value.body.code) == (400, "invalid_json")
    return refused.value.body.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b" \r\n" * 100, "the body is empty"),
        (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
        (GOOD.decode().encode("utf-16"), "the body is UTF-16"),
        (b"\xe9" + GOOD, "the body is not UTF-8"),
        (FORM, "the body is a form"),
        (b"model=chat&messages=%5B%5D", "the body is a form"),
        (b"messages[0][role]=user", "the body is a form"),
        (GOOD[:-3], "it ends too early"),
        (GOOD + b"x", "trailing characters"),
        (b"{'model': 'chat'}", "object keys must be strings"),
        (rb'{"model": "\ud800"}', r"\ud800 is half"),
        (rb'{"model": "chat", "messages": ["\\ud800 \uDC00"]}', r"\uDC00 is half"),
        (rb'{"model": "chat", "messages": ["\ud83d\ude00 \ud83dx"]}', r"\ud83d is half"),
    ],
)
def test_what_is_wrong_is_told(body: bytes, words: str) -> None:
    said = refusal(body)
    assert words in said
    assert "truncated" not in said


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_whole_character_is_never_called_half_of_one(text: str) -> None:
    whole = json.dumps({"model": "chat", "messages": [text]}).encode()
    assert "half" not in refusal(whole + b"x")
