"""Captures: which requests they capture, what is left of texts, and what the log says of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.capture import MOST, Capture, running
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.masking import MASK
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded
from nebula.openai.answer_text import text_of
from nebula.openai.redacted import LARGEST, hiding, redacted
from tests.unit.story import Story, cluster

MINUTE = CaptureStarted(60.0, tenant="team-a")
BODY = {
    "model": "chat",
    "messages": [{"role": "user", "content": "My name is Ann, 12345678, ann@example.org"}],
    "temperature": 0.5,
    "stream": True,
    "stop": ["END"],
    "metadata": {"api_key": "sk-not-for-you", "topic": "salary"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def story_with(*events: tuple[str, CaptureStarted | CaptureStopped]) -> Story:
    story = cluster().given("c1", ClusterFounded("lab", VERSION))
    for identity, event in events:
        story.given(identity, event)
    return story


def test_a_capture_runs_until_its_time_is_over() -> None:
    story = story_with(("a", MINUTE))
    [capture] = story.state.captures.values()
    assert capture.until_ns - capture.started_ns == 60 * 10**9
    assert running([capture], capture.until_ns - 1) == (capture,)
    assert running([capture], capture.until_ns) == ()


def test_a_capture_that_is_stopped_is_gone() -> None:
    story = story_with(("a", MINUTE), ("a", CaptureStopped()))
    assert not story.state.captures
    assert not story.state.rejections


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((("a", CaptureStarted(60.0)),), "name a model, a key or a tenant"),
        ((("a", CaptureStarted(60.0, model="none")),), "there is no model 'none'"),
        ((("a", CaptureStarted(60.0, key_id="none")),), "there is no key 'none'"),
        ((("a", CaptureStopped()),), "there is no capture 'a'"),
        ((("a", MINUTE), ("a", MINUTE)), "capture 'a' is already running"),
        (tuple((f"c{n}", MINUTE) for n in range(MOST + 1)), f"{MOST} captures already"),
    ],
)
def test_what_makes_no_sense_is_rejected(
    events: tuple[tuple[str, CaptureStarted | CaptureStopped], ...], reason: str
) -> None:
    [rejection] = story_with(*events).state.rejections.values()
    assert reason in rejection.reason


def test_it_captures_its_share_of_what_matches() -> None:
    rule = CaptureStarted(60.0, model="chat", key_id="ci", share=0.25)
    capture = Capture("a", rule, 0, 1)
    ids = [f"{number:032x}" for number in range(2000)]
    share = sum(capture.matches(each, "chat", "ci", "") for each in ids) / len(ids)
    assert 0.2 < share < 0.3
    assert not any(capture.matches(each, "other", "ci", "") for each in ids)
    assert not any(capture.matches(each, "chat", "", "") for each in ids)


def test_masked_texts_keep_their_shape_only() -> None:
    value, omitted = redacted(json.dumps(BODY).encode(), "mask", hiding("mask"))
    assert omitted == ""
    assert value["messages"][0] == {
        "role": "user",
        "content": "xx xxxx xx xxx, xxxxxxxx, xxx@xxxxxxx.xxx",
    }
    assert (value["model"], value["temperature"], value["stream"]) == ("chat", 0.5, True)
    assert value["metadata"] == {"api_key": MASK, "topic": "xxxxxx"}


def test_dropped_texts_leave_their_length() -> None:
    value, _ = redacted(json.dumps(BODY).encode(), "drop", hiding("drop"))
    assert value["messages"][0]["content"] == "(41 characters)"
    assert value["stop"] == ["(3 characters)"]


def test_kept_texts_are_searched_for_what_is_to_be_hidden() -> None:
    hide = hiding("keep", ("email", "number"), ("ann",))
    value, _ = redacted(json.dumps(BODY).encode(), "keep", hide)
    assert value["messages"][0]["content"] == f"My name is {MASK}, {MASK}, {MASK}"
    assert "sk-not-for-you" not in json.dumps(value)


def test_token_ids_are_contents_too() -> None:
    body = b'{"model":"m","prompt":[[1,22],[333]],"max_tokens":7}'
    assert redacted(body, "mask", hiding("mask"))[0] == {
        "model": "m",
        "prompt": [[0, 0], [0]],
        "max_tokens": 7,
    }
    assert redacted(body, "keep", hiding("keep"))[0]["prompt"] == [[1, 22], [333]]


@pytest.mark.parametrize("body", [b"", b"{", b"--form\r\n", b"\xff"])
def test_what_is_not_json_is_left_out(body: bytes) -> None:
    assert redacted(body, "keep", hiding("keep")) == (None, "it is not JSON")


def test_a_large_body_is_left_out_unread() -> None:
    assert redacted(b"x" * (LARGEST + 1), "keep", hiding("keep"))[1].startswith("it has more than")


@given(JSON, st.sampled_from(["mask", "drop"]))
def test_no_letter_of_a_text_is_left(value: object, contents: str) -> None:
    secret = "Zürich"
    body = json.dumps({"messages": [value, secret], "input": {"deep": [secret]}}).encode()
    found, omitted = redacted(body, contents, hiding(contents))  # type: ignore[arg-type]
    assert omitted == ""
    assert secret not in json.dumps(found, ensure_ascii=False).replace(str(value), "")
    assert found["messages"][1] != secret


@pytest.mark.parametrize(
    ("body", "stream", "text"),
    [
        (b'{"choices":[{"message":{"content":"one"}}]}', False, "one"),
        (b'{"choices":[{"text":"a"},{"text":"b"}]}', False, "a\nb"),
        (b'{"content":[{"type":"text","text":"one"}]}', False, "one"),
        (b'{"output":[{"content":[{"text":"one"}]}]}', False, "one"),
        (b'{"data":[]}', False, '{"data":[]}'),
        (b"\xff", False, "\ufffd"),
        (b'data: {"choices":[{"delta":{"content":"o"}}]}\n\ndata: [DONE]\n\n', True, "o"),
        (b'data: {"choices":[{"text":"o"}]}\n\n: waiting\n\n', True, "o"),
        (b'event: x\ndata: {"type":"content_block_delta","delta":{"text":"o"}}\n\n', True, "o"),
        (b'data: {"type":"response.output_text.delta","delta":"o"}\n\n', True, "o"),
        (b"data: 7\n\ndata: {\n\n", True, ""),
    ],
)
def test_the_text_of_an_answer_is_found_in_every_form(body: bytes, stream: bool, text: str) -> None:
    assert text_of(body, stream=stream) == text


def test_a_long_word_becomes_its_length() -> None:
    body = json.dumps({"input": "an image: " + "http://" * 1000}).encode()
    assert redacted(body, "keep", hiding("keep"))[0]["input"] == "an image: (7000 characters)"
