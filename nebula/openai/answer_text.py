"""The text of an answer in any of the forms of OpenAI's and Anthropic's API. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from nebula.events.reading import UNREADABLE


def text_of(body: bytes, *, stream: bool) -> str:
    """Return what an answer says; the body itself if it has no text of a known form."""
    if stream:
        return "".join(_said(each) for each in _events(body))
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return body.decode(errors="replace")
    return _whole(value) or body.decode(errors="replace")


def _events(body: bytes) -> Iterator[Any]:
    for line in body.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                yield msgspec.json.decode(line[5:])
            except UNREADABLE:
                continue


def _said(event: Any) -> str:
    """Return what an event of a stream adds."""
    if not isinstance(event, dict):
        return ""
    choices = event.get("choices")
    if isinstance(choices, list):
        return "".join(
            _text(_field(each, "delta"), "content") or _text(each, "text") for each in choices
        )
    delta = event.get("delta")
    if isinstance(delta, str):
        return delta if event.get("type") == "response.output_text.delta" else ""
    return _text(delta, "text")


def _whole(value: Any) -> str:
    choices = _field(value, "choices")
    if isinstance(choices, list):
        return "\n".join(
            _text(_field(each, "message"), "content") or _text(each, "text") for each in choices
        )
    output = _field(value, "output")
    parts = output if isinstance(output, list) else [value]
    contents = [_field(each, "content") for each in parts]
    return "".join(
        _text(each, "text") for content in contents if isinstance(content, list) for each in content
    )


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any, name: str) -> str:
    found = _field(value, name)
    return found if isinstance(found, str) else ""
