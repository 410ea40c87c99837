"""Makes one stream of events of several runs of the same response. Pure.

An engine that dies amid a response takes its answer with it: the request runs again, from its
start. As long as the new run says what the old one said, nothing is added to the stream; then it
goes on. Engines cut the same text in different pieces, so texts are compared and not events.

Where a new run says something else, the open item of the old one is closed as `incomplete`, and all
items of the new run follow: two texts are never mixed.
"""

import hashlib
from typing import Any

from nebula.events.stored_responses import Event
from nebula.openai.partial_output import ITEM_ADDED, ITEM_DONE, PartialOutput
from nebula.openai.response_events import OPENING, TERMINAL, numbered

_DRAWN = ("call_", "chatcmpl-tool-")
"""How ids of calls begin that an engine draws at random; others are the model's own words."""


class RepeatedRun:
    """One run of a response whose stream may have been begun by earlier runs.

    `events`: all that the stream has, of all runs. `section`: the number of the event with which
    the present answer begins.
    """

    def __init__(self, identity: str, events: list[Event], section: int) -> None:
        self.events = list(events)
        self.section = section
        self._identity = identity
        self._stored = len(events)
        self._at = section
        self._within = 0
        self._base = _items(self.events[:section])
        self._said: list[Event] = []
        self._names: dict[str, str] = {}

    @property
    def added(self) -> list[Event]:
        """The events that are not stored yet."""
        return self.events[self._stored :]

    def stored(self) -> None:
        """Note that all events have been stored."""
        self._stored = len(self.events)

    def take(self, event: Event) -> None:
        """Take an event of this run's engine, but those that begin and end a stream."""
        if event["type"] in OPENING or event["type"] in TERMINAL:
            return
        if self._at < len(self.events):
            self._said.append(event)
        self._follow(self._own(event))

    def finish(self, response: dict[str, Any], kind: str) -> None:
        """Take the response that ends this run."""
        if self._at < len(self.events):
            self._depart()
        output = [self._named(item) for item in response.get("output") or ()]
        self._append({"type": kind, "response": {**response, "output": output}})

    def close(self, response: dict[str, Any], kind: str) -> None:
        """End the stream without a further event of an engine: it was cancelled, or has failed."""
        self.events += numbered(self._closing(), len(self.events))
        self._append({"type": kind, "response": response})

    def _follow(self, event: Event) -> None:
        """Compare an event with what was said before, or add it."""
        while self._at < len(self.events):
            known = _unnumbered(self.events[self._at])
            if _is_text(event) and _is_text(known) and _place(event) == _place(known):
                rest, said = known["delta"][self._within :], event["delta"]
                length = min(len(rest), len(said))
                if rest[:length] != said[:length]:
                    break
                self._within += length
                if self._within == len(known["delta"]):
                    self._at, self._within = self._at + 1, 0
                if length == len(said):
                    return
                event = {**event, "delta": said[length:]}
            elif self._within == 0 and known == event:
                self._at += 1
                return
            else:
                break
        else:
            self._append(event)
            return
        self._depart()

    def _depart(self) -> None:
        """Begin the answer anew, as this run says something else."""
        self.events += numbered(self._closing(), len(self.events))
        self._at = self.section = len(self.events)
        self._within = 0
        self._base = _items(self.events)
        self._names.clear()
        said, self._said = self._said, []
        for event in said:
            self._append(self._own(event))

    def _append(self, event: Event) -> None:
        """Add an event; text goes to the last event, if that is text too and not stored yet."""
        self._said.clear()
        if len(self.events) > self._stored and _is_text(event):
            last = _unnumbered(self.events[-1])
            if _is_text(last) and _place(last) == _place(event):
                self.events[-1] = {**self.events[-1], "delta": last["delta"] + event["delta"]}
                return
        self.events += numbered([event], len(self.events))
        self._at = len(self.events)

    def _own(self, event: Event) -> Event:
        """Return an event with the names and places that its items have in the stream."""
        own = _unnumbered(event)
        place = own.get("output_index")
        if isinstance(place, int):
            place = own["output_index"] = place + self._base
            for name in (own.get("item_id"), _field(own.get("item"), "id")):
                self._name(name, place)
            call = _field(own.get("item"), "call_id")
            if isinstance(call, str) and call.startswith(_DRAWN):
                self._name(call, place)
        if isinstance(own.get("item_id"), str):
            own["item_id"] = self._names.get(own["item_id"], own["item_id"])
        if isinstance(own.get("item"), dict):
            own["item"] = self._named(own["item"])
        return own

    def _name(self, name: object, place: int) -> None:
        """Map an engine's name, which differs in each run, to a name that all runs share."""
        if isinstance(name, str) and name not in self._names:
            kind = "call" if name.startswith(_DRAWN) else name.partition("_")[0]
            of = f"{self._identity} {place} {kind}".encode()
            self._names[name] = f"{kind}_{hashlib.blake2b(of, digest_size=12).hexdigest()}"

    def _named(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        names = {key: item[key] for key in ("id", "call_id") if isinstance(item.get(key), str)}
        return {**item, **{key: self._names.get(name, name) for key, name in names.items()}}

    def output(self) -> list[dict[str, Any]]:
        """Return the items that the present answer has so far."""
        return self._partial().items()

    def _closing(self) -> list[Event]:
        """Return the events that close the present answer's open items."""
        return [
            {"type": ITEM_DONE, "output_index": place, "item": item}
            for place, item in self._partial().unfinished().items()
        ]

    def _partial(self) -> PartialOutput:
        partial = PartialOutput()
        for event in self.events[self.section :]:
            partial.take(event)
        return partial


def _items(events: list[Event]) -> int:
    return sum(event["type"] == ITEM_ADDED for event in events)


def _unnumbered(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "sequence_number"}


def _is_text(event: Event) -> bool:
    """Return whether an event only adds text, which may be cut anywhere."""
    kind, text = event["type"], event.get("delta")
    return kind.endswith(".delta") and isinstance(text, str) and not event.get("logprobs")


def _place(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "delta"}


def _field(item: object, key: str) -> object:
    return item.get(key) if isinstance(item, dict) else None
