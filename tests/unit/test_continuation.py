"""Answers that are cut and go on at another engine, as their clients see them.

`serve` is the gateway's part: it cuts, plans, asks the next engine and hands its events on. What
real vLLM sent (``data/vllm_streams.jsonl``) is cut in the same way.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.events.inference import Form
from nebula.openai import continuation
from nebula.openai.chunks import CHAT, COMPLETIONS, DONE
from nebula.openai.continuation import (
    CantContinue,
    Continuation,
    Detokenize,
    Finish,
    Limits,
    plan,
    with_token_ids,
)
from nebula.openai.stream import StreamRewriter
from tests.unit.vllm_stream import BEGIN, PROMPT, Engine, Grouping, one

STREAMS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/vllm_streams.jsonl").read_text().splitlines()
]
LIMITS = Limits(context=1000)
TRICKY = ',"token_ids":[1] "},"logprobs":null,"finish_reason":null,"token_ids":[7]}]}\n\ndata: \\'
KINDS = st.sampled_from([CHAT, COMPLETIONS])

Split = Callable[[bytes], list[bytes]]


def by_event(stream: bytes) -> list[bytes]:
    return re.findall(rb".+?\n\n|.+", stream, re.DOTALL)


def request(path: str, **fields: Any) -> bytes:
    prompt = {"messages": [{"role": "user", "content": "go"}]} if path == CHAT else {"prompt": "go"}
    return json.dumps({"model": "m", "stream": True, **prompt, **fields}).encode()


def fed(rewriter: StreamRewriter, messages: list[bytes]) -> bytes:
    return b"".join(map(rewriter.feed, messages))


def settled(
    path: str, body: bytes, rewriter: StreamRewriter, engine: Engine
) -> Continuation | Finish | CantContinue:
    step = plan(path, body, rewriter, LIMITS)
    while isinstance(step, Detokenize):
        assert step.path == "/detokenize"
        continuation.settle(rewriter.transcript, engine.detokenize(step.body))
        step = plan(path, body, rewriter, LIMITS)
    return step


def serve(
    path: str,
    body: bytes,
    tokens: list[bytes],
    cuts: list[float],
    grouping: Grouping = one,
    split: Split = by_event,
) -> bytes | CantContinue:
    """Return what the client gets when each engine but the last dies after a part of its bytes."""
    first = with_token_ids(path, body)
    rewriter = first.rewriter(path)
    out, step = b"", Continuation(path, first.body, Form.ORIGINAL)
    for number, cut in enumerate([*cuts, 1.0]):
        engine = Engine(tokens, created=number + 1)
        stream = b"".join(engine.stream(step.path, step.body, grouping))
        stream = stream[: int(cut * len(stream))]
        out += fed(rewriter, split(stream))
        if number == len(cuts):
            return out + rewriter.flush()
        after = settled(path, body, rewriter, engine)
        if isinstance(after, Finish):
            return out + after.body
        if isinstance(after, CantContinue):
            return after
        rewriter.resume(after.form)
        step = after
    raise AssertionError


def told(stream: bytes) -> dict[str, Any]:
    """What a stream says, however its text is divided among events."""
    said: dict[str, Any] = {"text": "", "heads": set(), "roles": 0, "ids": []}
    *events, last = by_event(stream)
    assert last == b"data: [DONE]\n\n"
    for event in events:
        data = json.loads(event.removeprefix(b"data: "))
        said["heads"].add((data["id"], data["object"], data["created"], data["model"]))
        if data.get("usage"):
            said["usage"] = data["usage"]
        for choice in data["choices"]:
            delta = choice.get("delta", {})
            said["roles"] += "role" in delta
            said["text"] += choice.get("text") or delta.get("content") or ""
            said["ids"] += choice.get("token_ids") or []
            assert "finish_reason" not in said or choice["finish_reason"] is None
            if choice["finish_reason"]:
                said["finish_reason"] = choice["finish_reason"], choice["stop_reason"]
    return said


@st.composite
def tokenised(draw: st.DrawFn) -> list[bytes]:
    """A text in tokens that end anywhere, inside characters too."""
    raw = draw(st.text(min_size=1, max_size=12) | st.text('a😀世,"\\', max_size=12)).encode()
    ends = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=8)))
    return [piece for piece in map(raw.__getitem__, map(slice, [0, *ends], [*ends, None])) if piece]


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """A way to divide a stream's bytes into messages."""
    sizes = draw(st.lists(st.integers(1, 600), min_size=1, max_size=6))

    def split(stream: bytes) -> list[bytes]:
        messages, number = [], 0
        while stream:
            size = sizes[number % len(sizes)]
            messages.append(stream[:size])
            stream, number = stream[size:], number + 1
        return messages

    return draw(st.just(by_event) | st.just(lambda stream: [stream]) | st.just(split))


@st.composite
def groupings(draw: st.DrawFn) -> Grouping:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    turn: Iterator[int] = (sizes[n % len(sizes)] for n in range(10**6))
    return lambda: next(turn)


USAGE = st.sampled_from(
    [
        {},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ]
)
MOST = st.sampled_from([{}, {"max_tokens": 3}, {"max_tokens": 8}])


# Asking for token ids


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream":true,"n":1}', b'{"return_token_ids":true,"stream":true,"n":1}'),
        (b'\n\t {  "stream" : true }', b'\n\t {"return_token_ids":true,  "stream" : true }'),
        (b'{"a":{"return_token_ids":1},"stream":true}', None),
    ],
)
def test_a_stream_is_asked_for_with_token_ids_and_otherwise_byte_for_byte(
    body: bytes, expected: bytes | None
) -> None:
    result = with_token_ids(CHAT, body)
    assert (result.tracked, result.shown) == (True, False)
    assert result.body == (expected or body.replace(b"{", b'{"return_token_ids":true,', 1))


@pytest.mark.parametrize("value", [b"false", b"null"])
def test_a_client_that_says_that_it_wants_no_token_ids_gets_none(value: bytes) -> None:
    body = b'{"return_token_ids":%b,"stream":true,"x":[1, 2],"return_token_ids":%b}' % (
        value,
        value,
    )
    result = with_token_ids(CHAT, body)
    assert (result.tracked, result.shown) == (True, False)
    assert result.body == b'{"return_token_ids":true,"stream":true,"x":[1, 2]}'


def test_a_client_that_wants_token_ids_is_asked_for_unchanged() -> None:
    body = b'{"stream":true,"return\\u005ftoken_ids":true}'
    assert with_token_ids(COMPLETIONS, body) == continuation.PreparedBody(
        body, tracked=True, shown=True
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"stream":true}'),
        (CHAT, b"{}"),
        (CHAT, b'{"stream":false}'),
        (CHAT, b'{"stream":"1.0"}'),
        (CHAT, b'{"stream":2}'),
        (CHAT, b'{"stream":[]}'),
        (CHAT, b'{"x":{"stream":true}}'),
        (CHAT, b"no JSON"),
        (CHAT, b"[1]"),
        (COMPLETIONS, b'{"stream":true,"echo":true}'),  # vLLM then leaves the prompt's text out
        (COMPLETIONS, b'{"stream":true,"n":2}'),
    ],
)
def test_what_can_never_be_gone_on_with_is_not_touched(path: str, body: bytes) -> None:
    assert with_token_ids(path, body) == continuation.PreparedBody(body)


@pytest.mark.parametrize("said", ["true", "1", "1.0", "1e0", '"true"', '"TRUE"', '"on"', '"Y"'])
def test_all_that_vllm_takes_for_a_stream_can_be_gone_on_with(said: str) -> None:
    assert with_token_ids(CHAT, b'{"stream":%b}' % said.encode()).tracked


# Undisturbed


@given(KINDS, tokenised(), USAGE, MOST, groupings(), splits())
@example(CHAT, [TRICKY.encode()], {}, {}, one, by_event)
@example(COMPLETIONS, [TRICKY.encode()[:9], TRICKY.encode()[9:]], {}, {}, one, by_event)
def test_an_undisturbed_stream_is_what_it_would_be_without_token_ids(
    path: str,
    tokens: list[bytes],
    usage: dict[str, Any],
    most: dict[str, Any],
    grouping: Grouping,
    split: Split,
) -> None:
    sizes = [grouping() for _ in range(20)]
    body = request(path, **usage, **most)
    plain = Engine(tokens).stream(path, body, iter(sizes).__next__)
    rewriter = with_token_ids(path, body).rewriter(path)
    stream = Engine(tokens).stream(path, with_token_ids(path, body).body, iter(sizes).__next__)
    assert fed(rewriter, split(b"".join(stream))) + rewriter.flush() == b"".join(plain)
    assert rewriter.transcript.done
    assert plan(path, body, rewriter) == Finish(b"")


def test_events_there_are_for_their_token_ids_alone_do_not_reach_the_client() -> None:
    rewriter = with_token_ids(CHAT, request(CHAT)).rewriter(CHAT)
    role, text, *_ = Engine([b"a"]).stream(CHAT, with_token_ids(CHAT, request(CHAT)).body)
    empty = text.replace(b'{"content":"a"}', b"{}")
    assert empty != text
    assert rewriter.feed(role)
    assert rewriter.feed(empty) == b""
    assert plan(CHAT, request(CHAT), rewriter) == CantContinue(
        "a parser of the engine holds text back"
    )


def as_another_server(stream: bytes, form: str) -> bytes:
    """The same events as a server other than vLLM's writes them."""
    match form:
        case "CRLF":
            return stream.replace(b"\n", b"\r\n")
        case "no blank":
            return stream.replace(b"data: ", b"data:")
        case "comments":
            return stream.replace(b"data: ", b": alive\ndata: ")
        case _:
            return stream.replace(b'":', b'": ').replace(b',"', b', "')


FORMS = st.sampled_from(["CRLF", "no blank", "comments", "blanks in JSON"])
PLAIN = st.lists(st.sampled_from([b"a", b" b", b"\xe4\xb8\x96"]), min_size=1, max_size=6)


@given(KINDS, PLAIN, USAGE, FORMS, splits())
def test_a_stream_in_another_form_is_passed_on_in_that_form(
    path: str, tokens: list[bytes], usage: dict[str, Any], form: str, split: Split
) -> None:
    body = request(path, **usage)
    plain = as_another_server(b"".join(Engine(tokens).stream(path, body)), form)
    first = with_token_ids(path, body)
    stream = as_another_server(b"".join(Engine(tokens).stream(path, first.body)), form)
    rewriter = first.rewriter(path)
    assert fed(rewriter, split(stream)) + rewriter.flush() == plain
    assert rewriter.transcript.done


@given(KINDS, FORMS)
def test_each_of_its_events_is_passed_on_as_it_comes(path: str, form: str) -> None:
    first = with_token_ids(path, request(path))
    rewriter = first.rewriter(path)
    for event in Engine([b"a", b"b"]).stream(path, first.body):
        assert rewriter.feed(as_another_server(event, form))


@given(KINDS, PLAIN, FORMS, st.floats(0, 1))
def test_its_client_gets_no_text_twice_when_it_is_cut(
    path: str, tokens: list[bytes], form: str, cut: float
) -> None:
    body = request(path)
    first = with_token_ids(path, body)
    engine = Engine(tokens)
    stream = as_another_server(b"".join(engine.stream(path, first.body)), form)
    rewriter = first.rewriter(path)
    got = rewriter.feed(stream[: int(cut * len(stream))])
    match step := settled(path, body, rewriter, engine):
        case CantContinue():
            assert form == "blanks in JSON"
            return
        case Finish():
            got += step.body
        case Continuation():
            rewriter.resume(step.form)
            rest = b"".join(Engine(tokens, created=2).stream(step.path, step.body))
            got += rewriter.feed(as_another_server(rest, form))
    lines = [line for line in got.splitlines() if line.startswith(b"data:")]
    said = told(b"".join(b"data: %b\n\n" % line[5:].strip() for line in lines))
    assert said["text"].encode() == b"".join(tokens)
    assert len(said["heads"]) == 1


def test_nothing_follows_the_event_that_ends_a_stream() -> None:
    body = request(CHAT, stream_options={"include_usage": True})
    rewriter = begun(CHAT, body)
    rewriter.feed(DONE)
    assert plan(CHAT, body, rewriter) == Finish(b"")


def test_what_is_missing_of_an_unknown_form_is_not_made_up() -> None:
    body = request(CHAT, stream_options={"include_usage": True})
    first = with_token_ids(CHAT, body)
    rewriter = first.rewriter(CHAT)
    *events, _, _ = Engine([b"a"]).stream(CHAT, first.body)
    for event in events:
        rewriter.feed(as_another_server(event, "blanks in JSON"))
    assert plan(CHAT, body, rewriter) == Finish(DONE)


def test_an_event_without_choices_is_passed_on_by_the_engine_that_begins_anew() -> None:
    rewriter = with_token_ids(CHAT, request(CHAT)).rewriter(CHAT)
    rewriter.resume(Form.RESTARTED)
    assert rewriter.feed(b'data: {"progress":1}\n\n') == b'data: {"progress":1}\n\n'


# Cut


@given(
    KINDS,
    tokenised(),
    USAGE,
    MOST,
    groupings(),
    splits(),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
@example(CHAT, ["😀".encode()[:2], "😀".encode()[2:]], {}, {}, lambda: 1, by_event, [0.8])
@example(CHAT, [b"a", b"\xf0\x9f", b"\x98\x80"], {}, {}, lambda: 2, by_event, [0.7])
def test_a_client_gets_the_same_answer_however_often_it_is_cut(
    path: str,
    tokens: list[bytes],
    usage: dict[str, Any],
    most: dict[str, Any],
    grouping: Grouping,
    split: Split,
    cuts: list[float],
) -> None:
    body = request(path, **usage, **most)
    plain = told(b"".join(Engine(tokens).stream(path, body)))
    got = serve(path, body, tokens, cuts, grouping, split)
    assert isinstance(got, bytes)
    answer = told(got)
    assert len(answer.pop("heads")) == 1
    del plain["heads"]
    assert answer == plain


@given(
    KINDS,
    st.lists(st.text(min_size=1, max_size=3).map(str.encode), min_size=1, max_size=6),
    USAGE,
    MOST,
    splits(),
    st.integers(1, 100),
)
@example(CHAT, [b"a", TRICKY.encode(), b"b"], {}, {}, by_event, 2)
def test_where_each_event_is_one_token_every_byte_is_the_same(
    path: str,
    tokens: list[bytes],
    usage: dict[str, Any],
    most: dict[str, Any],
    split: Split,
    after: int,
) -> None:
    tokens = [token for token in tokens if "\N{REPLACEMENT CHARACTER}".encode() not in token] or [
        b"a"
    ]
    body = request(path, **usage, **most)
    first = with_token_ids(path, body)
    plain = Engine(tokens).stream(path, body)
    events = Engine(tokens).stream(path, first.body)
    after = 1 + after % next(n for n, event in enumerate(plain) if b'_reason":"' in event)
    rewriter = first.rewriter(path)
    got = fed(rewriter, split(b"".join(events[:after]) + events[after][:100]))
    step = plan(path, body, rewriter, LIMITS)
    if isinstance(step, Finish):  # the cut event had the token that ends it
        return
    assert isinstance(step, Continuation)
    rewriter.resume(step.form)
    rest = Engine(tokens, created=2).stream(step.path, step.body)
    assert got + fed(rewriter, split(b"".join(rest))) == b"".join(plain)


@given(KINDS, tokenised(), groupings(), st.lists(st.floats(0, 1), min_size=1, max_size=2))
def test_a_client_that_wants_token_ids_gets_each_once(
    path: str, tokens: list[bytes], grouping: Grouping, cuts: list[float]
) -> None:
    body = request(path, return_token_ids=True, max_tokens=50)
    plain = told(b"".join(Engine(tokens).stream(path, body)))
    got = serve(path, body, tokens, cuts, grouping)
    if isinstance(got, CantContinue):
        assert got.reason == "it was cut inside a character whose token ids the client has"
        return
    answer = told(got)
    assert (answer["text"], answer["ids"]) == (plain["text"], plain["ids"])


def begun(
    path: str, body: bytes, after: int = 3, tokens: tuple[bytes, ...] = (b"a",) * 9
) -> StreamRewriter:
    """The rewriter after some events of an answer."""
    first = with_token_ids(path, body)
    rewriter = first.rewriter(path)
    fed(rewriter, Engine(list(tokens)).stream(path, first.body)[:after])
    return rewriter


def test_a_chat_goes_on_as_a_completion_of_its_token_ids() -> None:
    body = request(
        CHAT,
        max_tokens=100,
        max_completion_tokens=9,
        min_tokens=5,
        temperature=0.5,
        seed=7,
        stop_token_ids=[5],
        stream_options={"include_usage": True},
        tools=[{"type": "function"}],
        tool_choice="none",
        logprobs=False,
        n=1,
        stop=[],
        presence_penalty=0.0,
        response_format={"type": "text"},
        request_id="x",
        cache_salt="s",
        something_new={"a": 1},
    )
    rewriter = begun(CHAT, body)
    step = plan(CHAT, body, rewriter)
    assert isinstance(step, Continuation)
    assert rewriter.transcript.texts == rewriter.transcript.completion_tokens == 2
    assert step.path == COMPLETIONS
    assert json.loads(step.body) == {
        "model": "m",
        "prompt": [*PROMPT, BEGIN, BEGIN + 1],
        "max_tokens": 7,
        "min_tokens": 3,
        "temperature": 0.5,
        "seed": 9,
        "stop_token_ids": [5],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "cache_salt": "s",
        "something_new": {"a": 1},
    }


@pytest.mark.parametrize(
    ("path", "fields", "limits", "rest"),
    [
        (CHAT, {}, Limits(100), 95),
        (CHAT, {}, Limits(100, default=20), 18),
        (CHAT, {}, Limits(100, most=10), 8),
        (CHAT, {"max_tokens": 1000}, Limits(100), 95),
        (CHAT, {"max_tokens": 50}, Limits(100, default=20), 48),
        (CHAT, {"max_tokens": 50, "max_completion_tokens": None}, None, 48),
        (COMPLETIONS, {}, None, 13),
        (COMPLETIONS, {"max_tokens": None}, Limits(100, default=20), 13),
        (COMPLETIONS, {"max_tokens": 50, "max_completion_tokens": 4}, None, 47),
    ],
)
def test_what_is_left_of_the_answer_is_what_the_first_engine_had_left(
    path: str, fields: dict[str, Any], limits: Limits | None, rest: int
) -> None:
    body = request(path, **fields)
    step = plan(path, body, begun(path, body), limits)
    assert isinstance(step, Continuation)
    assert json.loads(step.body)["max_tokens"] == rest


def test_a_chat_without_a_limit_needs_to_know_the_engines_own() -> None:
    step = plan(CHAT, request(CHAT), begun(CHAT, request(CHAT)))
    assert step == CantContinue("no max_tokens is given, and the engine's own limit is not known")


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        (CHAT, {"n": 2}, "more than one choice is asked for"),
        (COMPLETIONS, {"best_of": 2}, "more than one choice is asked for"),
        (CHAT, {"use_beam_search": True}, "beam search keeps more than one answer in view"),
        (CHAT, {"tools": [{}]}, "tools may be called"),
        (CHAT, {"tools": [{}], "tool_choice": "auto"}, "tools may be called"),
        (
            CHAT,
            {"response_format": {"type": "json_object"}},
            "the form of the answer is constrained",
        ),
        (CHAT, {"structured_outputs": {}}, "the form of the answer is constrained"),
        (CHAT, {"logprobs": True}, "log probabilities are asked for"),
        (COMPLETIONS, {"logprobs": 0}, "log probabilities are asked for"),
        (COMPLETIONS, {"echo": True}, "the prompt is to be echoed"),
        (CHAT, {"stop": "x"}, "stop strings make the engine hold text back"),
        (CHAT, {"frequency_penalty": 0.1}, "frequency_penalty counts the answer's own tokens only"),
        (CHAT, {"bad_words": ["x"]}, "bad_words looks at the answer's own tokens only"),
        (CHAT, {"include_reasoning": False}, "reasoning is to be left out of the answer"),
        (CHAT, {"truncate_prompt_tokens": 5}, "the prompt is truncated"),
        (CHAT, {"vllm_xargs": {"a": 1}}, "extensions of the engine take part"),
        (CHAT, {"messages": IMAGE}, "the prompt is more than text"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "there is more than one prompt"),
        (COMPLETIONS, {"prompt": [[1], [2]]}, "there is more than one prompt"),
        (COMPLETIONS, {"max_tokens": "many"}, "max_tokens is not a whole number"),
    ],
)
def test_what_would_not_go_on_exactly_is_refused_with_a_reason(
    path: str, fields: dict[str, Any], reason: str
) -> None:
    body = request(path, **fields)
    first = with_token_ids(path, body)
    events = Engine([b"a"] * 9).stream(path, with_token_ids(path, request(path)).body)
    rewriter = first.rewriter(path)
    assert fed(rewriter, events[:3])
    assert plan(path, body, rewriter, LIMITS) == CantContinue(reason)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, CHAT),
        ({"prompt": ["one"]}, COMPLETIONS),
        ({"prompt": [1, 2]}, COMPLETIONS),
        ({"prompt": [[1, 2]]}, COMPLETIONS),
    ],
)
def test_one_prompt_of_text_may_be_written_in_several_ways(
    path: str, fields: dict[str, Any]
) -> None:
    rewriter = begun(path, request(path))
    assert isinstance(plan(path, request(path, **fields), rewriter, LIMITS), Continuation)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_an_answer_with_reasoning_does_not_go_on(field: str) -> None:
    rewriter = begun(CHAT, request(CHAT), 2)
    event = b'data: {"choices":[{"index":0,"delta":{"%b":"hm"},"token_ids":[5]}]}\n\n'
    assert rewriter.feed(event % field.encode()) == (event % field.encode()).replace(
        b"[5]", b"null"
    )
    assert plan(CHAT, request(CHAT), rewriter, LIMITS) == CantContinue(
        "the model's reasoning is told apart from its answer"
    )


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"stop": "x"}, {"tools": [{}]}])
def test_before_the_first_token_everything_begins_again_under_the_same_id(
    fields: dict[str, Any], after: int
) -> None:
    body = request(CHAT, **fields)
    first = with_token_ids(CHAT, body)
    rewriter = first.rewriter(CHAT)
    stream = Engine([b"a", b"b"]).stream(CHAT, first.body)
    got = fed(rewriter, stream[:after])
    step = plan(CHAT, body, rewriter)
    assert step == Continuation(CHAT, first.body, Form.RESTARTED)
    rewriter.resume(Form.RESTARTED)
    got += fed(rewriter, Engine([b"a", b"b"], created=2).stream(step.path, step.body))
    number = 1 if after else 2
    assert got == b"".join(Engine([b"a", b"b"], created=number).stream(CHAT, body))


def test_what_had_begun_again_can_be_gone_on_with() -> None:
    body = request(CHAT, max_tokens=5)
    rewriter = begun(CHAT, body, 1)
    rewriter.resume(Form.RESTARTED)
    fed(rewriter, Engine([b"a"] * 9, created=2).stream(CHAT, with_token_ids(CHAT, body).body)[:3])
    step = plan(CHAT, body, rewriter)
    assert isinstance(step, Continuation)
    assert json.loads(step.body)["prompt"] == [*PROMPT, BEGIN, BEGIN + 1]


def test_a_stream_with_its_reason_to_finish_needs_no_engine_for_its_end() -> None:
    body = request(CHAT, stream_options={"include_usage": True})
    stream = Engine([b"a", b"b"]).stream(CHAT, with_token_ids(CHAT, body).body)
    rewriter = with_token_ids(CHAT, body).rewriter(CHAT)
    got = fed(rewriter, stream[:4])
    step = plan(CHAT, body, rewriter)
    assert isinstance(step, Finish)
    plain = b"".join(Engine([b"a", b"b"]).stream(CHAT, body))
    assert got + step.body == plain.replace(b',"system_fingerprint":"f"', b"")
    rewriter.feed(stream[4])
    assert plan(CHAT, body, rewriter) == Finish(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_limit_that_is_reached_without_its_event_finishes_the_answer(path: str) -> None:
    rewriter = begun(path, request(path), 3 + (path == CHAT))
    step = plan(path, request(path, max_tokens=3), rewriter)
    assert isinstance(step, Finish)
    *_, last = by_event(step.body)[:-1]
    choice = json.loads(last[6:])["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)


ENDS = [
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for '
    b'the root cause.", "type": "InternalServerError", "param": null, "code": 500}}\n\n',
    b'data: {"id":"x","object":"text_completion","created":1,"model":"m","choices":[{"index":0,'
    b'"text":"","logprobs":null,"finish_reason":"abort","stop_reason":null,'
    b'"prompt_token_ids":null,"token_ids":[]}]}\n\n',
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("together", [True, False])
def test_an_engine_that_tells_its_own_end_is_gone_on_from_too(end: bytes, together: bool) -> None:
    body = request(COMPLETIONS, max_tokens=5)
    first = with_token_ids(COMPLETIONS, body)
    rewriter = first.rewriter(COMPLETIONS)
    stream = Engine([b"a"] * 9).stream(COMPLETIONS, first.body)
    messages = [*stream[:2], end, b"data: [DONE]\n\n"]
    got = fed(rewriter, [b"".join(messages)] if together else messages)
    assert (rewriter.failure, rewriter.transcript.done) == (end, False)
    step = plan(COMPLETIONS, body, rewriter)
    assert isinstance(step, Continuation)
    rewriter.resume(step.form)
    got += fed(rewriter, Engine([b"a"] * 9).stream(step.path, step.body))
    assert (got, rewriter.failure) == (
        b"".join(Engine([b"a"] * 9).stream(COMPLETIONS, body)),
        b"",
    )


def test_what_an_engine_refuses_in_its_stream_does_not_mean_that_it_ended() -> None:
    rewriter = begun(CHAT, request(CHAT))
    refused = b'data: {"error": {"message": "no", "type": "BadRequestError", "code": 400}}\n\n'
    assert rewriter.feed(refused) == refused
    assert (rewriter.failure, rewriter.transcript.done) == (b"", True)


def test_an_answer_of_several_choices_passes_as_it_is() -> None:
    body = request(CHAT, n=2)
    rewriter = with_token_ids(CHAT, body).rewriter(CHAT)
    messages = [b'data: {"choices":[{"index":%d,"delta":{"content":"x"}}]}\n\n' % n for n in (0, 1)]
    messages += [messages[0] + messages[1][:9], messages[1][9:]]
    assert fed(rewriter, messages) == b"".join(messages)


@given(KINDS, tokenised(), groupings(), st.floats(0, 1))
@example(CHAT, [b"a", b"\xf0\x9f", b"\x98\x80", b"b"], lambda: 2, 0.7)
def test_a_later_reader_of_the_parts_comes_to_the_same_progress(
    path: str, tokens: list[bytes], grouping: Grouping, cut: float
) -> None:
    body = request(path, max_tokens=50)
    first = with_token_ids(path, body)
    stream = b"".join(Engine(tokens).stream(path, first.body, grouping))
    stream = stream[: int(cut * len(stream))]
    live, later = first.rewriter(path), first.rewriter(path)
    assert live.feed(stream) == later.feed(stream)
    step = settled(path, body, live, Engine(tokens))
    if not isinstance(step, Continuation):
        return
    rest = Engine(tokens, created=2).stream(step.path, step.body, grouping)[:2]
    live.resume(step.form)
    later.resume(step.form)
    assert fed(live, rest) == fed(later, rest)
    live_got, later_got = live.transcript, later.transcript
    assert (live_got.prompt, live_got.ids) == (later_got.prompt, later_got.ids)


# Real vLLM


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda recorded: recorded["name"])
def test_what_vllm_sends_is_stripped_to_what_it_sends_without_token_ids(
    recorded: dict[str, Any],
) -> None:
    def anonymous(stream: bytes) -> bytes:
        return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream)

    path, body = recorded["path"], recorded["body"].encode()
    rewriter = with_token_ids(path, body).rewriter(path)
    got = fed(rewriter, by_event(recorded["asked"].encode()))
    if recorded["plain"] is not None:
        assert anonymous(got) == anonymous(recorded["plain"].encode())
    else:
        assert rewriter.shown or b'"token_ids":[' not in got


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda recorded: recorded["name"])
def test_what_vllm_goes_on_with_is_what_it_would_have_said(recorded: dict[str, Any]) -> None:
    path, body = recorded["path"], recorded["body"].encode()
    events = by_event(recorded["asked"].encode())
    plain = told(fed(with_token_ids(path, body).rewriter(path), events))
    for cut in recorded["cuts"]:
        rewriter = with_token_ids(path, body).rewriter(path)
        got = fed(rewriter, events[: cut["after"]])
        asks = iter(cut["asks"])
        for number, part in enumerate(cut["parts"]):
            step = plan(path, body, rewriter)
            while isinstance(step, Detokenize):
                ask = next(asks)
                assert json.loads(step.body) == json.loads(ask["body"])
                continuation.settle(rewriter.transcript, ask["answer"].encode())
                step = plan(path, body, rewriter)
            assert isinstance(step, Continuation)
            assert json.loads(step.body) == json.loads(part["body"])
            rewriter.resume(step.form)
            more = number < len(cut["parts"]) - 1
            got += fed(rewriter, by_event(part["raw"].encode())[: cut["second"] if more else None])
        assert told(got) == plain
