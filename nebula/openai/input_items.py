"""Which items a client may give as input: those that engines can read. Pure.

What an engine would pass over in silence is refused here, as it would change the answer: vLLM
reads no stored files, and no items but messages, tools' calls and outputs, and reasoning.
"""

from typing import Any

from msgspec import Struct

_NEEDED = {
    "message": ("role",),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": (),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": (),
    "reasoning": (),
}
"""The types of items, and which of their fields must be texts."""

_INSTEAD = {
    "item_reference": "items can't be named by their id: give the item itself, or name what it "
    "belongs to in `previous_response_id` or `conversation`",
    "input_file": "engines can't read files: give the text as a part of type input_text",
}
"""What to say of types that clients know from elsewhere."""

_PARTS = frozenset(
    {
        "text",
        "input_text",
        "output_text",
        "refusal",
        "thinking",
        "reasoning_text",
        "summary_text",
        "input_image",
        "image_url",
        "input_audio",
        "audio_url",
        "video_url",
        "image_embeds",
        "audio_embeds",
        "video_embeds",
        "prompt_embeds",
        "tool_reference",
    }
)
"""Types of the parts of contents that vLLM reads."""


class Problem(Struct, frozen=True):
    """Why items can't be taken. `param`: the field at fault."""

    text: str
    param: str


def problem(items: list[Any], field: str) -> Problem | None:
    """Return what is wrong with items, None for nothing. `field`: the name of their list."""
    for number, item in enumerate(items):
        place = f"{field}[{number}]"
        if not isinstance(item, dict):
            return Problem("an item must be an object", place)
        if found := _of_item(item, place) or _of_parts(item, place):
            return found
    return None


def _of_item(item: dict[str, Any], place: str) -> Problem | None:
    kind = item.get("type")
    kind = "message" if kind is None else kind
    if not isinstance(kind, str):
        return Problem("a type must be a string", f"{place}.type")
    if kind not in _NEEDED:
        known = ", ".join(sorted(_NEEDED))
        text = _INSTEAD.get(kind, f"the types that engines can read are {known}")
        return Problem(f"items of type {kind[:80]!r} are not supported: {text}", f"{place}.type")
    for name in _NEEDED[kind]:
        if not isinstance(item.get(name), str):
            article = "an" if name == "arguments" else "a"
            text = f"a {kind} needs {article} {name}, which is a string"
            return Problem(text, f"{place}.{name}")
    if kind == "reasoning" and item.get("encrypted_content"):
        text = "encrypted reasoning is not supported: give its `content` or `summary`"
        return Problem(text, f"{place}.encrypted_content")
    return None


def _of_parts(item: dict[str, Any], place: str) -> Problem | None:
    for name in ("content", "output"):
        parts = item.get(name)
        for number, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict) and (found := _of_part(part, f"{place}.{name}[{number}]")):
                return found
    return None


def _of_part(part: dict[str, Any], place: str) -> Problem | None:
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        return Problem("a type must be a string", f"{place}.type")
    if kind is not None and kind not in _PARTS:
        text = _INSTEAD.get(kind, "engines can't read it")
        return Problem(f"parts of type {kind[:80]!r} are not supported: {text}", f"{place}.type")
    if part.get("file_id") is not None:
        text = "file_id is not supported: give the image itself as its image_url, perhaps as data"
        return Problem(text, f"{place}.file_id")
    if kind == "input_image" and not isinstance(part.get("image_url"), str):
        return Problem("an input_image needs an image_url, which is a string", f"{place}.image_url")
    return None
