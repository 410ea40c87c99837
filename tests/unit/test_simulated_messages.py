"""Anthropic's messages on a simulated engine, in vLLM's shapes."""

from typing import Any

import pytest

from tests.unit.asked_engine import HOUR, Call, chat, client, engine, post, said, stream_events

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "Org/Model", "max_tokens": 3, **chat(text), **fields}


async def test_a_message_says_what_a_chat_says() -> None:
    app = engine()
    answer = (await post(app, PATH, asked("red green", system="be brief"))).json()
    assert answer["id"].startswith("chatcmpl-")
    del answer["id"]
    assert answer == {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": await said(app, chat("red green", max_tokens=3))}],
        "model": "Org/Model",
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 4, "output_tokens": 3},
    }
    natural = (await post(app, PATH, asked("a", max_tokens=50))).json()
    assert natural["stop_reason"] == "end_turn"


async def test_content_comes_in_blocks_and_tools_are_known_but_not_called() -> None:
    content = [
        {"type": "tool_result", "tool_use_id": "t", "content": "four"},
        {"type": "text", "text": "a b"},
    ]
    body = {
        **asked(""),
        "messages": [{"role": "user", "content": content}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
    }
    answer = (await post(engine(), PATH, body)).json()
    assert answer["content"] == [{"type": "text", "text": "four a b"}]


async def test_a_stream_has_anthropics_events_in_order() -> None:
    call = Call(engine(), PATH, asked("x y", stream=True))
    start = await call.sent.get()
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    events = stream_events(await call.events())
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"] == {"input_tokens": 2, "output_tokens": 0}
    assert [event["delta"]["text"] for event in events[2:5]] == ["x", " y", " x"]
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"] == {"input_tokens": 2, "output_tokens": 3}


async def test_tokens_are_counted_without_an_answer() -> None:
    app = engine(first_token=HOUR)
    body = {"model": "Org/Model", **chat("a b c"), "system": "d"}
    counted = (await post(app, COUNT, body)).json()
    assert counted == {"input_tokens": 4, "context_management": {"original_input_tokens": 4}}
    assert app.core.begun == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "body.max_tokens"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"model": ""}, "body.model"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "body.messages.0.role"),
        ({"tools": [{"name": "f"}]}, "body.tools.0.input_schema"),
        ({"tool_choice": {"type": "tool"}}, "body.tool_choice"),
    ],
)
async def test_a_body_of_the_wrong_form_is_refused_by_vllms_framework(
    fields: dict[str, Any], param: str
) -> None:
    response = await post(engine(), PATH, asked("a", **fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "big"}, 404, "NotFoundError"),
        ({"messages": []}, 400, "BadRequestError"),
        (chat("a a a a"), 400, "BadRequestError"),
    ],
)
async def test_what_the_engine_itself_refuses_has_anthropics_shape(
    path: str, fields: dict[str, Any], status: int, kind: str
) -> None:
    response = await post(engine(max_model_len=4), path, asked("a", **fields))
    answer = response.json()
    assert (response.status_code, answer["type"]) == (status, "error")
    assert answer["error"].keys() == {"type", "message"}
    assert answer["error"]["type"] == kind


async def test_a_prompt_orders_a_status_in_anthropics_shape() -> None:
    body = asked("!status=503 !retry-after=7")
    refused = await post(engine(orders=True), PATH, body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert refused.json()["type"] == "error"


async def test_a_stream_that_fails_in_the_middle_ends_with_an_error_event() -> None:
    call = Call(engine(orders=True), PATH, asked("!break", stream=True))
    events = stream_events(await call.events())
    assert [event["type"] for event in events[-2:]] == ["content_block_delta", "error"]
    assert events[-1]["error"]["type"] == "internal_error"


async def test_an_answer_carries_the_id_of_the_request_that_a_proxy_gave() -> None:
    async with client(engine()) as opened:
        response = await opened.post(PATH, json=asked("a"), headers={"X-Request-Id": "abc"})
    assert response.json()["id"] == "chatcmpl-abc"
