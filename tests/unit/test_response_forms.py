"""Responses as requests, objects, items and bytes of a stream."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from nebula.events.metadata import Metadata
from nebula.events.stored_responses import Head
from nebula.openai import responses
from nebula.openai.response_events import data_of, rewritten, written
from nebula.openai.response_items import joined, listed, of_output, own_items
from nebula.openai.responses import BadWish, Wishes
from nebula.openai.sse import EventSplitter

HEAD = Head(id="resp_1", owner="", created=7, previous="resp_0", conversation="")


def body(**fields: object) -> bytes:
    return msgspec.json.encode({"model": "chat", "input": "hi", **fields})


def test_a_response_is_stored_unless_its_client_says_otherwise() -> None:
    assert responses.wishes(body()) == Wishes(store=True, said=False)
    assert responses.wishes(body(store=True)) == Wishes(store=True, said=True)
    assert responses.wishes(body(store=None)) == Wishes(store=True, said=False)
    assert not responses.wishes(body(store=False)).store


def test_a_conversation_is_named_by_its_id_or_as_an_object() -> None:
    for said in ("conv_1", {"id": "conv_1"}):
        assert responses.wishes(body(conversation=said)).conversation == "conv_1"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"conversation": {"id": ""}}, "conversation"),
    ],
)
def test_wishes_that_contradict_each_other_name_the_field(
    fields: dict[str, object], param: str
) -> None:
    with pytest.raises(BadWish) as refused:
        responses.wishes(body(**fields))
    assert refused.value.param == param


def test_an_engine_gets_all_in_one_request_and_keeps_nothing() -> None:
    asked = body(
        store=True,
        background=True,
        previous_response_id="resp_0",
        conversation=None,
        request_id="mine",
        temperature=0.5,
    )
    before = [b'[{"role":"user","content":"a"}]', b'[{"type":"message","id":"m"}]']
    sent = msgspec.json.decode(responses.for_engine(asked, "resp_1", before))
    assert sent.pop("input")[:2] == [
        {"role": "user", "content": "a"},
        {"type": "message", "id": "m"},
    ]
    assert sent == {"model": "chat", "temperature": 0.5, "store": False, "request_id": "resp_1"}
    alone = msgspec.json.decode(responses.for_engine(asked, "resp_1", []))
    assert alone["input"] == "hi"


def test_what_is_repeated_has_a_seed_and_keeps_its_own() -> None:
    assert msgspec.json.decode(responses.repeatable(body(), 5))["seed"] == 5
    assert msgspec.json.decode(responses.repeatable(body(seed=None), 5))["seed"] == 5
    assert msgspec.json.decode(responses.repeatable(body(seed=0, stream=False), 5)) == {
        "model": "chat",
        "input": "hi",
        "seed": 0,
        "stream": True,
    }


def test_a_queued_response_is_one_of_openai_s() -> None:
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    for asked in (body(), body(tools=[tool], temperature=0, metadata={"a": "b"})):
        made = Response.model_validate(responses.queued(asked, HEAD))
        assert (made.status, made.id, made.previous_response_id) == ("queued", "resp_1", "resp_0")
    assert made.temperature == 0
    assert made.tool_choice == "auto"


def test_items_are_shown_with_ids_that_stay() -> None:
    items = own_items(b'"hello"')
    (item,) = listed(bytes(items), "resp_1")
    assert item["content"] == [{"type": "input_text", "text": "hello"}]
    assert (item["role"], item["status"], item["type"]) == ("user", "completed", "message")
    assert listed(bytes(items), "resp_1") == [item]
    (other,) = listed(bytes(items), "resp_2")
    assert other["id"] != item["id"]
    mixed = [
        {"role": "assistant", "content": "a"},
        {"type": "function_call_output", "id": "own", "call_id": "c", "output": "4"},
        {"type": "item_reference", "id": "x"},
    ]
    shown = listed(msgspec.json.encode(mixed), "resp_1")
    assert shown[0]["content"] == [{"type": "output_text", "text": "a", "annotations": []}]
    assert [each["id"] for each in shown[1:]] == ["own", "x"]
    assert "status" not in shown[2]


def test_messages_without_text_do_not_come_before_a_request() -> None:
    output = [{"type": "message", "content": []}, {"type": "function_call", "name": "f"}]
    assert of_output({"output": output}) == output[1:]
    assert of_output({}) == []


@given(st.lists(st.lists(st.integers(), max_size=3), max_size=4), st.lists(st.integers()))
def test_lists_are_joined_in_their_order(before: list[list[int]], own: list[int]) -> None:
    encoded = [msgspec.json.encode(each) for each in before]
    whole = joined(encoded, msgspec.json.encode(own))
    assert msgspec.json.decode(whole) == [*(one for each in before for one in each), *own]


@given(st.lists(st.text(), max_size=5), st.lists(st.integers(1, 20), max_size=50))
def test_events_come_whole_however_they_were_cut(texts: list[str], sizes: list[int]) -> None:
    events = [{"type": "response.output_text.delta", "delta": text} for text in texts]
    sent = b"".join(map(written, events))
    splitter = EventSplitter()
    found = []
    for size in [*sizes, len(sent)]:
        found += splitter.feed(sent[:size])
        sent = sent[size:]
    assert [data_of(each) for each in found] == events
    assert splitter.flush() == b""


@pytest.mark.parametrize("said", [b": waiting\n\n", b"data: [DONE]\n\n", b"data: {}\n\n", b"\n\n"])
def test_what_is_not_an_event_of_a_response_has_no_data(said: bytes) -> None:
    assert data_of(said) is None


def test_a_response_says_what_was_done_whatever_its_engine_says() -> None:
    head = Head(id="resp_1", owner="", created=7)
    engines = {"id": "resp_e", "store": True, "metadata": None, "background": True, "output": []}
    for stored in (True, False):
        given = responses.dressed(engines, head, stored=stored)
        assert given["store"] is stored
        assert (given["id"], given["background"], given["metadata"]) == ("resp_1", False, {})
        assert (given["previous_response_id"], given["conversation"]) == (None, None)
    within = Head(id="resp_1", owner="", created=7, conversation="conv_1")
    given = responses.dressed({"metadata": {"a": "b"}}, within, stored=False)
    assert (given["conversation"], given["metadata"]) == ({"id": "conv_1"}, {"a": "b"})


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({str(number): "" for number in range(17)}, "17 pairs: at most 16"),
        ({"k" * 65: ""}, "65 characters, at most 64"),
        ({"k": "v" * 513}, "513 characters, at most 512"),
        ({"": "v"}, "must not be empty"),
    ],
)
def test_metadata_beyond_its_limits_is_refused_by_one_rule(
    pairs: dict[str, str], said: str
) -> None:
    with pytest.raises(BadWish, match=said) as refused:
        responses.wishes(body(metadata=pairs))
    assert refused.value.param == "metadata"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(pairs, Metadata)


def test_metadata_at_its_limits_is_taken() -> None:
    pairs = {f"{number:064}": "v" * 512 for number in range(16)}
    responses.wishes(body(metadata=pairs))
    assert msgspec.convert(pairs, Metadata) == pairs
    responses.wishes(body(metadata=None))


def test_an_event_with_other_data_keeps_its_id() -> None:
    event = b'id: 7\nevent: a\ndata: {"type": "a"}\n\n'
    given = rewritten(event, {"type": "response.created", "response": {}})
    assert given.startswith(b"id: 7\nevent: response.created\n")
    assert data_of(given) == {"type": "response.created", "response": {}}
    assert given.endswith(b"}\n\n")
    assert given.count(b"\n\n") == 1
