"""OpenAI's responses on a simulated engine, in vLLM's shapes."""

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from nebula.engines.simulated_responses import BrokenStream
from tests.unit.asked_engine import HOUR, Call, chat, engine, get, post, said, stream_events

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"


def text_of(response: dict[str, Any]) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


async def test_a_response_says_what_a_chat_says_and_repeats_what_was_asked() -> None:
    app = engine(max_model_len=100)
    body = {"input": "red green", "instructions": "be brief", "max_output_tokens": 3}
    answer = (await post(app, PATH, {**body, "metadata": {"a": "b"}})).json()
    assert text_of(answer) == "red green red" == await said(app, chat("red green", max_tokens=3))
    assert (answer["status"], answer["incomplete_details"]["reason"]) == (
        "incomplete",
        "max_output_tokens",
    )
    assert (answer["instructions"], answer["metadata"]) == ("be brief", {"a": "b"})
    assert answer["usage"]["input_tokens"] == 4
    assert answer["usage"]["output_tokens"] == 3
    assert answer["usage"]["total_tokens"] == 7
    Response.model_validate(answer)
    whole = (await post(app, PATH, {"input": "a"})).json()
    assert (whole["status"], whole["incomplete_details"]) == ("completed", None)
    assert whole["max_output_tokens"] == 99  # what the context leaves


async def test_the_last_message_of_the_user_is_answered_whatever_its_form() -> None:
    items = [
        {"role": "user", "content": "not this"},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "name": "f", "call_id": "1", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "four"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a b"}]},
    ]
    answer = (await post(engine(tokens=2), PATH, {"input": items})).json()
    assert text_of(answer) == "a b"
    assert answer["usage"]["input_tokens"] == 5


async def test_a_stream_has_all_of_vllms_events_in_order_and_numbered() -> None:
    call = Call(engine(tokens=3), PATH, {"input": "x y", "stream": True})
    start = await call.sent.get()
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    events = stream_events(await call.events())
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["delta"] for event in events[4:7]] == ["x", " y", " x"]
    last = events[-1]["response"]
    assert text_of(last) == events[-4]["text"] == "x y x"
    assert events[0]["response"]["id"] == last["id"]
    assert (events[0]["response"]["status"], last["status"]) == ("in_progress", "completed")
    for event in events:
        TypeAdapter[Any](ResponseStreamEvent).validate_python(event)


async def test_a_stream_begins_before_the_first_token_is_made() -> None:
    call = Call(engine(first_token=HOUR), PATH, {"input": "a", "stream": True})
    _, created, under_way = [await call.sent.get() for _ in range(3)]
    assert b"event: response.created" in created["body"]
    assert b"event: response.in_progress" in under_way["body"]
    call.leave()
    await call.task
    assert call.sent.empty()


async def test_an_id_is_the_requests_own_and_no_proxys() -> None:
    answer = (await post(engine(), PATH, {"input": "a", "request_id": "mine"})).json()
    assert answer["id"] == "mine"
    other = (await post(engine(), PATH, {"input": "a"})).json()
    assert other["id"].startswith("resp_")


async def test_the_tokens_of_prompt_and_answer_are_shown_where_they_are_asked_for() -> None:
    body = {"input": "a b", "max_output_tokens": 1, "enable_response_messages": True}
    answer = (await post(engine(), PATH, body)).json()
    (asked,), (made,) = answer["input_messages"], answer["output_messages"]
    assert (asked["message"], made["message"]) == ("a b", "a")
    going_on = {"prompt": asked["tokens"] + made["tokens"], "max_tokens": 1}
    more = (await post(engine(), "/v1/completions", going_on)).json()
    assert more["choices"][0]["text"] == " b"


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({}, 400, "Bad Request", "body.input"),
        ({"input": 5}, 400, "Bad Request", "body.input"),
        ({"input": [{"content": "a"}]}, 400, "Bad Request", "body.input"),
        ({"input": []}, 400, "BadRequestError", None),
        ({"input": "a", "max_output_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"input": "a", "model": "big"}, 404, "NotFoundError", "model"),
        ({"input": "a", "background": True}, 400, "invalid_request_error", "background"),
        ({"input": "a", "background": True, "store": False}, 400, "BadRequestError", "background"),
        ({"input": "a", "previous_response_id": "x"}, 404, "invalid_request_error", "response_id"),
        ({"input": "a", "tool_choice": "required"}, 400, "BadRequestError", "tool_choice"),
        ({"input": "a", "prompt": {"id": "p"}}, 400, "BadRequestError", "prompt"),
        ({"input": "a a a a"}, 400, "BadRequestError", "input_tokens"),
    ],
)
async def test_what_vllm_refuses_is_refused_in_its_shape(
    body: dict[str, Any], status: int, kind: str, param: str | None
) -> None:
    response = await post(engine(max_model_len=4), PATH, body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (status, kind, param)


async def test_no_response_is_kept() -> None:
    for response in (
        await get(engine(), f"{PATH}/resp_x"),
        await post(engine(), f"{PATH}/resp_x/cancel", {}),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["message"] == "Response with id 'resp_x' not found."


async def test_a_stream_that_fails_in_the_middle_is_broken_off_without_a_word() -> None:
    app = engine(orders=True)
    call = Call(app, PATH, {"input": "!break", "stream": True})
    with pytest.raises(BrokenStream):
        await call.task
    assert app.core.running == 0
    last = [call.sent.get_nowait() for _ in range(call.sent.qsize())][-1]
    assert b"response.output_text.delta" in last["body"]
    assert last["more_body"]
