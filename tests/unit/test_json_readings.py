"""A body that parsers could read in different ways is refused, or read as its engine reads it.

vLLM reads with Python's `json`: the last of equal keys counts.
"""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.events.endpoints import CHAT, ENDPOINTS
from nebula.http import outline
from nebula.http.errors import ApiError
from nebula.openai.continuation import streams, with_token_ids

KEYS = st.sampled_from(["model", "stream", "user", "n", "messages", "prompt", "stop"])
PLAIN = ('"chat"', '"embed"', "true", "false", "null", "1", "[]", "{}", '["a"]')
ODD = ("NaN", "-Infinity", "1e400", "01", '{"model": "x", "model": "y"}')
ESCAPED = ('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"')
VALUES = st.sampled_from([*PLAIN, *ODD, *ESCAPED])


@st.composite
def keys(draw: st.DrawFn) -> str:
    """Return a key, some of whose letters may be escaped."""
    plain = draw(KEYS)
    escaped = draw(st.sets(st.integers(0, len(plain) - 1), max_size=2))
    return "".join(
        f"\\u{ord(each):04x}" if at in escaped else each for at, each in enumerate(plain)
    )


PAIRS = st.lists(st.tuples(keys(), VALUES), max_size=6)
FRONTS = st.sampled_from(["", "\ufeff", " ", "\n"])
GOOD = [("model", '"chat"'), ("messages", "[]"), ("prompt", '"a"')]


def text(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"


@given(st.sampled_from([CHAT, ENDPOINTS["/tokenize"]]), st.permutations(GOOD), PAIRS, FRONTS)
@example(CHAT, GOOD, [("model", '"embed"')], "")
@example(
    CHAT, GOOD, [("mod\\u0065l", '"embed"'), ("stream", "true"), ("str\\u0065am", "false")], ""
)
def test_what_a_gateway_reads_is_what_its_engine_reads(
    endpoint: Any, good: list[tuple[str, str]], pairs: list[tuple[str, str]], front: str
) -> None:
    body = f"{front}{text([*good, *pairs])}".encode("utf-8", "surrogatepass")
    try:
        asked = outline.read(endpoint, body)
    except ApiError:
        return
    there = json.loads(body)
    assert asked.model == there["model"]
    assert streams(asked.stream) == (there.get("stream") in (True, 1))  # as pydantic reads it
    renamed = json.loads(outline.renamed(body, "other"))
    assert renamed == {**there, "model": "other"}
    if endpoint is CHAT and there.get("stream") is True:
        prepared = json.loads(with_token_ids(CHAT.path, body).body)
        assert {key: prepared[key] for key in there} == there


@given(st.binary(max_size=6), st.integers(0, 3))
def test_a_body_that_is_not_utf_8_is_refused_wherever_that_is(odd: bytes, filler: int) -> None:
    before = b'{"model": "chat", "messages": [{"content": "%b' % ("é" * filler * 99_999).encode()
    body = before + odd + b'"}]}'
    try:
        body.decode()
    except UnicodeDecodeError:
        with pytest.raises(ApiError, match="not UTF-8"):
            outline.read(CHAT, body)
