"""The items of responses and conversations: how they are shown, and what an engine gets. Pure."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

_PREFIX = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "cto",
}
_STATES = frozenset(
    {"message", "function_call", "function_call_output", "reasoning", "custom_tool_call"}
)
"""Types of items that have a status."""

_PARTS = {"text": "input_text", "output_text": "output_text"}

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal"})

_raw_list = msgspec.json.Decoder(list[Raw])


def own_items(said: bytes) -> Raw:
    """Return the JSON list of items that the `input` of a request stands for."""
    if not said.startswith(b'"'):
        return Raw(said)
    part = {"type": "input_text", "text": msgspec.json.decode(said)}
    item = {"type": "message", "role": "user", "content": [part]}
    return Raw(msgspec.json.encode([item]))


def listed(items: bytes, of: str) -> list[dict[str, Any]]:
    """Return items as they are shown: each with an id, a type, a status, and content in parts.

    `of`: the id of that which they belong to. An item that came without an id gets one.
    """
    read = msgspec.json.decode(items)
    return [shown(item, f"{of} {number}") for number, item in enumerate(read)]


def shown(item: dict[str, Any], place: str) -> dict[str, Any]:
    """Return one item as it is shown; `place` is a text that no other item has."""
    kind = item.get("type") or "message"
    made = hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
    item = {"type": kind, **item}
    item["type"] = kind
    if not item.get("id"):
        item["id"] = f"{_PREFIX.get(kind, 'item')}_{made}"
    if kind in _STATES and not item.get("status"):
        item["status"] = "completed"
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        said = "output_text" if item.get("role") == "assistant" else "input_text"
        part: dict[str, Any] = {"type": said, "text": content}
        item["content"] = [part | ({"annotations": []} if said == "output_text" else {})]
    return item


def of_output(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return those items of a response's output that can come before a later request.

    vLLM can't read a message without text.
    """
    output = response.get("output") or ()
    return [item for item in output if item.get("type") != "message" or item.get("content")]


def joined(before: Sequence[bytes], said: bytes) -> Raw:
    """Return one JSON list of all items of several lists, and of a request's `input`."""
    lists = [*before, own_items(said)]
    items = [_readable(bytes(item)) for each in lists for item in _raw_list.decode(each)]
    return Raw(b"[" + b",".join(items) + b"]")


def _readable(item: bytes) -> bytes:
    """Return an item with the text of a model in one part: vLLM reads no further part."""
    if b'"assistant"' not in item:
        return item
    read = msgspec.json.decode(item)
    parts = read.get("content") if isinstance(read, dict) else None
    if not isinstance(parts, list) or read.get("role") != "assistant":
        return item
    if not all(isinstance(part, dict) and part.get("type") in _TEXTS for part in parts):
        return item
    if len(parts) < 2 and not any(part["type"] == "refusal" for part in parts):
        return item
    text = "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)
    part = {"type": "output_text", "text": text, "annotations": []}
    return msgspec.json.encode({**read, "content": [part]})
