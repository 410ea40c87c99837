"""Finds secrets in the entries of a log, and makes entries without them. Pure.

A log can't forget: a log without a secret is another log, founded from an export in which the
secret is replaced. All else of an entry stays: its sequence, its time, its cause.
"""

import re
from collections.abc import Iterator, Mapping, Set
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace

from nebula.actors.node.secret_masks import masking
from nebula.events import snapshot
from nebula.events.evolve import evolve
from nebula.events.masking import MASK, is_secret
from nebula.events.reading import UNREADABLE
from nebula.events.record import Entry, Malformed, read_entry
from nebula.events.showing import names_a_secret, without_secrets
from nebula.events.state import EMPTY, State

_BODY = "body"
"""What a place is called in an entry that is not JSON."""


class NotRedactable(Exception):
    """An entry can't be without a value; the text says why, and does not have the value."""


def places(entry: Entry) -> dict[str, tuple[str, ...]]:
    """Return the secrets that an entry holds in clear: by the name of a field, its values."""
    value = _decoded(entry)
    found: dict[str, tuple[str, ...]] = {}
    for path, old, new in _differences("", value, without_secrets(value)):
        found[path] = found.get(path, ()) + tuple(_pieces(old, new))
    return found


def values_of(entry: Entry, field: str) -> tuple[str, ...]:
    """Return the texts and numbers in a field of an entry, as `places` names it, and below it."""
    return tuple(
        text
        for path, text in _leaves("", _decoded(entry))
        if path == field or path.startswith(f"{field}.")
    )


class Redactor:
    """Makes entries without these values."""

    def __init__(self, values: Set[str]) -> None:
        self._values = frozenset(values)
        self._mask = masking(values)

    def entry(self, entry: Entry) -> Entry:
        """Return an entry without the values; the same object if it has none.

        Raise NotRedactable.
        """
        if self._mask(entry.subject) != entry.subject:
            raise NotRedactable(
                f"event {entry.seq}: its subject has the value, so that what it is about would be "
                "another model, node or key"
            )
        headers, body = entry.headers, entry.body
        text = headers.decode("latin-1")
        if (masked := self._mask(text)) != text:
            headers = masked.encode("latin-1")
        try:
            value = msgspec.json.decode(body) if body else None
        except UNREADABLE:
            text = body.decode("latin-1")
            if (masked := self._mask(text)) != text:
                body = masked.encode("latin-1")
        else:
            made = self.value(value)
            body = body if made == value else msgspec.json.encode(made)
        return replace(entry, headers=headers, body=body)

    def holds(self, entry: Entry) -> bool:
        """Return whether an entry has one of the values."""
        return self.entry(entry) != entry

    def value(self, value: object) -> object:
        """Return a value as JSON has it, without the values."""
        match value:
            case str():
                return MASK if value in self._values else self._mask(value)
            case dict():
                return {self._mask(key): self._named(key, each) for key, each in value.items()}
            case list():
                return [self.value(each) for each in value]
            case _:
                return value

    def _named(self, key: str, value: object) -> object:
        number = isinstance(value, int | float) and str(value) in self._values
        return MASK if number and is_secret(key, value) else self.value(value)


class Comparison:
    """Folds a log and what it is to be without some values: both must mean the same."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._before = EMPTY
        self.state: State = EMPTY

    def add(self, before: Entry, after: Entry) -> None:
        """Fold the next entry. Raise NotRedactable."""
        was, now = read_entry(before), read_entry(after)
        malformed = isinstance(now.content, Malformed) and not isinstance(was.content, Malformed)
        if malformed or (was.seq, was.time, was.cause, was.subject) != (
            now.seq, now.time, now.cause, now.subject
        ):  # fmt: skip
            raise NotRedactable(f"event {before.seq}: without the value it is not a valid event")
        self._before, self.state = evolve(self._before, was), evolve(self.state, now)

    def conclude(self) -> None:
        """Raise NotRedactable unless both logs lead to the same state, apart from the values."""
        if self._redactor.value(_plain(self._before)) != self._redactor.value(_plain(self.state)):
            raise NotRedactable("without the values the log would lead to another state")


def _plain(state: State) -> object:
    """Return a state as JSON has it; why an event was rejected may be told in other words."""
    found = msgspec.json.decode(snapshot.canonical(state))
    return {**found, "rejections": [each["seq"] for each in found["rejections"]]}


def _decoded(entry: Entry) -> object:
    try:
        return msgspec.json.decode(entry.body) if entry.body else {}
    except UNREADABLE:
        return {_BODY: entry.body.decode("latin-1")}


def _differences(path: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    """Yield the places where the second value differs, with both values there."""
    if old is new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and len(old) == len(new):
        for (key, inner), (shown, made) in zip(old.items(), new.items(), strict=True):
            at = _joined(path, str(shown))
            if key != shown:
                yield at, key, shown
            yield from _differences(at, inner, made)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (inner, made) in enumerate(zip(old, new, strict=True)):
            yield from _differences(_joined(path, str(number)), inner, made)
    else:
        yield path, old, new


def _pieces(old: object, new: object) -> Iterator[str]:
    """Yield what masks stand for."""
    if not isinstance(old, str) or not isinstance(new, str):
        yield from (text for _, text in _leaves("", old))
        return
    pattern = "(.+?)".join(re.escape(part) for part in new.split(MASK))
    match = re.fullmatch(pattern, old, re.DOTALL)
    for piece in match.groups() if match is not None else (old,):
        if piece == MASK:
            continue
        yield piece
        if "://" in old and ":" in piece:
            password = piece.partition(":")[2]  # of a URL, where it is quoted
            yield from {password, unquote(password)} - {""}


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if names_a_secret(value):
            return
        for key, inner in value.items():
            yield from _leaves(_joined(path, str(key)), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(_joined(path, str(number)), inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and value != MASK:
        yield path, str(value)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
