"""What an engine says of its tokens, in each dialect, however the bytes are cut."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.answer import Answer, prepared
from nebula.actors.gateway.usage_recording import record_of
from nebula.events import frames
from nebula.events.endpoints import REALTIME
from nebula.events.frames import Frame
from nebula.events.inference import SWITCHED, Piece, Request
from nebula.openai import continuation
from nebula.openai.chunks import CHAT, COMPLETIONS
from nebula.openai.token_usage import Tokens, TokenUsage, decoded, of_whole, tokens_in, told

WHOLE = msgspec.json.encode(
    {
        "choices": [{"message": {"content": '"usage":{"prompt_tokens":9}'}}],
        "usage": {
            "prompt_tokens": 12,
            "total_tokens": 19,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
        "prompt_token_ids": None,
    }
)
MESSAGES = b"".join(
    b"event: x\ndata: " + msgspec.json.encode(event) + b"\n\n"
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 0}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}},
        {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 5, "output_tokens": 3}},
    )
)


def read(path: str, parts: list[bytes], *, streams: bool) -> Tokens:
    usage = TokenUsage(path, streams=streams)
    for part in parts:
        usage.feed(part)
    return usage.tokens


def parts_of(whole: bytes, cuts: list[int]) -> list[bytes]:
    bounds = sorted({0, *(cut % len(whole) for cut in cuts), len(whole)})
    return [whole[begin:end] for begin, end in pairwise(bounds)]


@given(st.lists(st.integers(0, 400)))
def test_an_answer_s_usage_is_read_however_its_bytes_are_cut(cuts: list[int]) -> None:
    assert read(CHAT, parts_of(WHOLE, cuts), streams=False) == Tokens(12, 8, 7)


@given(st.lists(st.integers(0, 400)))
def test_blanks_around_its_colons_change_nothing(cuts: list[int]) -> None:
    spaced = WHOLE.replace(b'":', b'" : ')
    assert read(CHAT, parts_of(spaced, cuts), streams=False) == Tokens(12, 8, 7)
    assert of_whole(spaced) == Tokens(12, 8, 7)


def test_a_usage_that_every_event_leaves_open_is_not_kept() -> None:
    usage = TokenUsage(CHAT, streams=True)
    for _ in range(1000):
        usage.feed(b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n')
    assert len(usage._kept) < 100
    assert usage.tokens == Tokens(completion=1000, counted="events")


@given(st.lists(st.integers(0, 600)))
def test_a_stream_s_usage_is_the_last_that_was_told(cuts: list[int]) -> None:
    assert read("/v1/messages", parts_of(MESSAGES, cuts), streams=True) == Tokens(5, 0, 3)


def test_a_stream_that_is_cut_counts_by_its_events() -> None:
    begun = MESSAGES[: MESSAGES.index(b"event: x\ndata: " + b'{"type":"message_delta"')]
    assert read("/v1/messages", [begun], streams=True) == Tokens(5, 0, 2, "events")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 4, "total_tokens": 4}, Tokens(4)),
        ({"total_tokens": 6}, Tokens(6)),
        ({"type": "duration", "seconds": 3}, Tokens()),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Tokens()),
        (
            {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 1},
            Tokens(3, 2, 1),
        ),
    ],
)
def test_each_form_of_a_usage(usage: dict[str, Any], expected: Tokens) -> None:
    body = msgspec.json.encode({"data": [], "usage": usage})
    assert read("/v1/embeddings", [body], streams=False) == expected


def asked(path: str, **fields: Any) -> Request:
    return Request("r1", "g1", "chat", path, msgspec.json.encode(fields), user="key/who")


def event(**fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"id": "a", **fields}) + b"\n\n"


USAGE = {"prompt_tokens": 4, "total_tokens": 6, "completion_tokens": 2}


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"x": 1}}])
def test_a_stream_without_token_ids_is_asked_for_its_usage_which_stays_here(
    options: dict[str, Any],
) -> None:
    request = prepared(asked(CHAT, stream=True, n=2, **options))
    sent = msgspec.json.decode(request.body)
    assert sent["stream_options"]["include_usage"] is True
    answer = Answer(request)
    begun = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], usage=None)
    said = event(choices=[{"index": 1, "delta": {"content": "x"}}])
    ends = event(choices=[], usage=USAGE)
    whole = begun + said + said + ends + b"data: [DONE]\n\n"
    given = b""
    for number, part in enumerate(parts_of(whole, [30, 90, 200, len(whole) - 20])):
        end = whole.endswith(part)
        piece = Piece(
            number,
            part,
            status=0 if number else 200,
            content_type="" if number else "text/event-stream",
            end=end,
        )
        taken = answer.take(piece)
        given += b"" if taken is None else taken.body
    assert given == begun + said + said + b"data: [DONE]\n\n"
    record = record_of(answer, 1000.5)
    assert record is not None
    assert (record.prompt, record.completion, record.counted, record.cut) == (4, 2, "engine", False)
    assert (record.key, record.user, record.time) == ("key", "who", 1000)


def test_a_client_that_wants_the_usage_gets_it() -> None:
    request = prepared(asked(CHAT, stream=True, n=2, stream_options={"include_usage": True}))
    assert request.tokens == ""
    answer = Answer(request)
    ends = event(choices=[], usage=USAGE) + b"data: [DONE]\n\n"
    given = answer.take(Piece(0, ends, status=200, content_type="text/event-stream", end=True))
    assert given is not None
    assert given.body == ends
    assert answer.tokens == Tokens(4, 0, 2)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("body", [b"[]", b"{", b'{"stream":true,"stream_options":7}'])
def test_what_an_engine_refuses_is_not_touched(path: str, body: bytes) -> None:
    assert continuation.with_usage(path, body).body == body


def test_an_error_is_not_used() -> None:
    answer = Answer(asked(CHAT))
    answer.take(Piece(0, b"{}", status=400, content_type="application/json", end=True))
    assert record_of(answer, 1.0) is None


def test_half_of_an_answer_that_comes_as_a_whole_is_not_used() -> None:
    answer = Answer(asked(CHAT))
    answer.take(Piece(0, WHOLE, status=200, content_type="application/json"))
    assert record_of(answer, 1.0) is None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_session_counts_all_its_turns_also_where_its_client_leaves(size: int) -> None:
    turns = [
        b'{"type":"transcription.done","text":"%d","usage":{"prompt_tokens":%d,'
        b'"completion_tokens":%d,"total_tokens":0}}' % (number, number, 10 * number)
        for number in (1, 2, 3)
    ]
    said = b"".join(frames.encode(Frame("text", turn)) for turn in turns)
    answer = Answer(Request("r", "g", "m", REALTIME.path, b"", user="key:k"))
    pieces = [b"", *(said[at : at + size] for at in range(0, len(said), size))]
    for chunk, body in enumerate(pieces):
        answer.take(Piece(chunk, body, status=SWITCHED))
    record = record_of(answer, 0)
    assert record is not None
    assert (record.prompt, record.completion) == (6, 60)


_TOKENS = st.none() | st.integers(-1, 50) | st.booleans() | st.just("1") | st.just(2**60)
_DETAILS = st.none() | st.dictionaries(st.sampled_from(["cached_tokens", "x"]), _TOKENS, max_size=2)
_NAMES = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")
usages = st.dictionaries(
    st.sampled_from([*_NAMES, "cache_read_input_tokens"]), _TOKENS, max_size=5
).flatmap(
    lambda counts: st.dictionaries(
        st.sampled_from(["prompt_tokens_details", "input_tokens_details"]), _DETAILS, max_size=2
    ).map(lambda details: counts | details)
)


@given(usages, st.none() | st.just(Tokens(7, 5, 3)))
def test_a_usage_is_read_the_short_way_as_the_long_way(
    usage: dict[str, object], before: Tokens | None
) -> None:
    raw = msgspec.json.encode(usage)
    assert tokens_in(raw, before) == told(decoded(raw), before)


@given(usages, st.integers(1, 40))
def test_an_answer_that_is_one_piece_is_counted_as_one_that_comes_in_pieces(
    usage: dict[str, object], step: int
) -> None:
    body = b'{"a":"\\"usage\\":{}","usage":%b,"b":{}}' % msgspec.json.encode(usage)
    counts = TokenUsage("/v1/embeddings", streams=False)
    for at in range(0, len(body), step):
        counts.feed(body[at : at + step])
    assert of_whole(body) == counts.tokens
    assert of_whole(b"{}") == Tokens()
