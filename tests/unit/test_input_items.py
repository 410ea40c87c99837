"""Items that engines can't read are refused, with the field at fault."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from nebula.openai.input_items import Problem, problem
from nebula.openai.response_items import joined

PIXEL = "data:image/png;base64,AAAA"


def message(*parts: object) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "x"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "x"}]},
        message({"type": "input_image", "image_url": PIXEL, "detail": "low", "file_id": None}),
        message({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": None},
    ],
)
def test_items_that_engines_read_are_taken(item: dict[str, Any]) -> None:
    assert problem([item, item], "input") is None


@pytest.mark.parametrize(
    ("item", "param", "said"),
    [
        ("x", "", "must be an object"),
        ({"type": "item_reference", "id": "msg_1"}, ".type", "item_reference.*not supported"),
        ({"type": "computer_call", "role": "user"}, ".type", "computer_call.*not supported"),
        ({"type": "nonsense"}, ".type", "function_call, function_call_output"),
        ({"type": 7}, ".type", "must be a string"),
        ({"content": "x"}, ".role", "needs a role"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, ".arguments", "needs an arg"),
        ({"type": "reasoning", "encrypted_content": "x"}, ".encrypted_content", "not supported"),
        (message({"type": "input_file", "file_id": "file-1"}), ".content[0].type", "input_file"),
        (message({"type": "input_image", "file_id": "f"}), ".content[0].file_id", "not supported"),
        (message("x", {"type": "input_image"}), ".content[1].image_url", "needs an image_url"),
        (message({"type": "computer_screenshot"}), ".content[0].type", "not supported"),
        (message({"type": []}), ".content[0].type", "must be a string"),
        (
            {"type": "function_call_output", "output": [{"type": "input_file", "file_data": ""}]},
            ".output[0].type",
            "input_file",
        ),
    ],
)
def test_items_that_engines_would_pass_over_are_refused(
    item: object, param: str, said: str
) -> None:
    found = problem([{"role": "user", "content": "x"}, item], "items")
    assert isinstance(found, Problem)
    assert found.param == f"items[1]{param}"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.text)


def read(items: Raw) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(items)
    return found


def test_all_that_a_model_said_in_a_message_reaches_the_engine_as_one_part() -> None:
    said = [
        {"type": "output_text", "text": "one "},
        {"type": "output_text", "text": "two"},
        {"type": "refusal", "refusal": " three"},
    ]
    (item,) = read(joined([], msgspec.json.encode([{"role": "assistant", "content": said}])))
    assert [part["text"] for part in item["content"]] == ["one two three"]
    for same in (
        {"role": "assistant", "content": said[:1]},
        {"role": "user", "content": said},
        {"role": "assistant", "content": "x"},
        {"type": "function_call", "name": "assistant"},
    ):
        assert read(joined([], msgspec.json.encode([same]))) == [same]
