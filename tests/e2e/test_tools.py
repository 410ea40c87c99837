"""Agents on real vLLM: they offer tools, send results back, and carry a long history."""

import json
import re

import anthropic
import openai
import pytest
from anthropic.types import MessageParam, ToolParam
from openai.types.responses import FunctionToolParam, ResponseInputParam

from tests.e2e.demo_cluster import CHAT, DemoCluster

CITIES = ["Paris", "Rome"]
QUESTION = "What is the weather in Paris?"
ASKED: MessageParam = {"role": "user", "content": QUESTION}
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Return the weather in a city.",
    "input_schema": SCHEMA,
    "strict": True,
}
FUNCTION: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Return the weather in a city.",
    "parameters": SCHEMA,
    "strict": True,
}
HISTORY = 200_000
"""Characters that a coding agent may send with each turn."""

TOO_LONG = r"maximum context length is 2048.* prompt contains (\d+) characters"


def test_a_message_asks_for_a_tool_and_takes_its_result(claude: anthropic.Anthropic) -> None:
    asking = claude.messages.create(
        model=CHAT,
        max_tokens=100,
        messages=[ASKED],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
        extra_body={"temperature": 0},
    )
    (call,) = [block for block in asking.content if block.type == "tool_use"]
    assert asking.stop_reason == "tool_use"
    assert call.name == "get_weather"
    assert call.input["city"] in CITIES
    answer = claude.messages.create(
        model=CHAT,
        max_tokens=8,
        tools=[WEATHER],
        tool_choice={"type": "none"},
        messages=[
            ASKED,
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call.id, "content": "sunny, 21 degrees"}
                ],
            },
        ],
    )
    assert [block.type for block in answer.content] == ["text"]
    assert answer.usage.input_tokens > asking.usage.input_tokens


def test_a_streamed_message_asks_for_a_tool(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(
        model=CHAT,
        max_tokens=100,
        messages=[ASKED],
        tools=[WEATHER],
        tool_choice={"type": "any"},
        extra_body={"temperature": 0},
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert "input_json" in kinds
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.input["city"] in CITIES


def test_a_response_calls_a_function_and_takes_its_output(cluster: DemoCluster) -> None:
    responses = cluster.client.responses
    asking = responses.create(
        model=CHAT,
        input=QUESTION,
        tools=[FUNCTION],
        tool_choice="required",
        max_output_tokens=100,
        temperature=0,
    )
    (call,) = [item for item in asking.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in CITIES
    history: ResponseInputParam = [
        {"role": "user", "content": QUESTION},
        {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        },
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": "sunny, 21 degrees",
        },
    ]
    answer = responses.create(
        model=CHAT,
        input=history,
        tools=[FUNCTION],
        tool_choice="none",
        max_output_tokens=8,
        temperature=0,
    )
    assert answer.output_text
    assert asking.usage is not None
    assert answer.usage is not None
    assert answer.usage.input_tokens > asking.usage.input_tokens


def test_a_history_that_is_too_long_is_refused_in_the_engines_words(
    cluster: DemoCluster, claude: anthropic.Anthropic
) -> None:
    """It arrives whole: what the engine says of its length is the proof."""
    history = "def f(x): return x\n" * (HISTORY // 19)
    with pytest.raises(openai.BadRequestError, match=TOO_LONG) as refused:
        cluster.client.responses.create(
            model=CHAT,
            input=[{"role": "user", "content": history}, {"role": "user", "content": QUESTION}],
            tools=[FUNCTION],
        )
    arrived = re.search(TOO_LONG, str(refused.value))
    assert arrived is not None
    assert int(arrived[1]) >= len(history)
    with pytest.raises(anthropic.BadRequestError, match=TOO_LONG):
        claude.messages.create(
            model=CHAT, max_tokens=8, messages=[{"role": "user", "content": history}]
        )
