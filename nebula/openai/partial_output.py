"""The items that a response has so far, from the events of its stream. Pure."""

from typing import Any

from nebula.events.stored_responses import Event

ITEM_ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"

_TEXT_OF = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "mcp_call": "arguments",
    "code_interpreter_call": "code",
}
"""The field that holds what the deltas of an item say; messages and reasoning have parts."""


class PartialOutput:
    """The items of one answer, by their place in its output."""

    def __init__(self) -> None:
        self._done: dict[int, dict[str, Any]] = {}
        self._open: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

    def take(self, event: Event) -> None:
        """Take the next event of the stream."""
        place = event.get("output_index", -1)
        if event["type"] == ITEM_ADDED:
            self._open[place] = event["item"]
        elif event["type"] == ITEM_DONE:
            self._open.pop(place, None)
            self._texts.pop(place, None)
            self._done[place] = event["item"]
        elif event["type"].endswith(".delta") and isinstance(event.get("delta"), str):
            self._texts.setdefault(place, []).append(event["delta"])

    def unfinished(self) -> dict[int, dict[str, Any]]:
        """Return the open items by their places, as far as they were said."""
        return {
            place: _cut(item, "".join(self._texts.get(place, ())))
            for place, item in self._open.items()
        }

    def items(self) -> list[dict[str, Any]]:
        """Return all items, the open ones as far as they were said."""
        items = {**self._done, **self.unfinished()}
        return [items[place] for place in sorted(items)]


def _cut(item: dict[str, Any], text: str) -> dict[str, Any]:
    """Return an item as far as it was said."""
    cut = {**item, "status": "incomplete"}
    kind = item.get("type")
    if kind == "message":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {**cut, "content": [part] if text else []}
    if kind == "reasoning":
        return {**cut, "content": [{"type": "reasoning_text", "text": text}] if text else []}
    return {**cut, _TEXT_OF[kind]: text} if kind in _TEXT_OF else cut
