"""What differs between a cluster file and the cluster, and which events made it so. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from nebula.events.evolve import evolve
from nebula.events.masking import MASK
from nebula.events.plain_text import one_line
from nebula.events.record import Record
from nebula.events.showing import shown, without_secrets
from nebula.events.state import EMPTY, State
from nebula.history.cluster_file.declaration import (
    KIND_OF_AGGREGATE,
    ClusterFile,
    DeclaredNode,
    Entry,
    Kind,
    entries,
    entries_of_state,
    entry_of_state,
    values_of,
)
from nebula.history.moments import clock

LONGEST_VALUE = 200
"""Characters of a value that a line has room for."""

NOT_SET = "not set"


class Cause(Struct, frozen=True):
    """The event that made something as it is: its sequence, its time (ns), and its author."""

    seq: int
    time: int
    by: str
    type: str


class Drift(Struct, frozen=True):
    """One thing that is otherwise in the cluster than in the file.

    `field` is empty if the whole entry is missing in the file or in the cluster: `file` or
    `cluster` is empty then. `cause` is filled in if the log was read for it.
    """

    kind: Kind
    id: str
    field: str
    file: str
    cluster: str
    cause: Cause | None = None

    @property
    def path(self) -> str:
        """Where it is in the file."""
        return ".".join(filter(None, (self.kind, self.id, self.field)))


class Comparison(Struct, frozen=True):
    """What differs, and the entries of the cluster that the file leaves alone."""

    drifts: tuple[Drift, ...]
    alone: tuple[str, ...] = ()


def compare(file: ClusterFile, state: State, *, prune: bool = False) -> Comparison:
    """Compare a file with a state. `prune`: the file holds all that there is to be."""
    wanted, present = entries(file), entries_of_state(state)
    drifts: list[Drift] = []
    alone: list[str] = []
    for kind, identity in sorted({*wanted, *present}):
        want, have = wanted.get((kind, identity)), present.get((kind, identity))
        if want is not None:
            drifts += _drifts(kind, identity, want, have)
        elif not _stays(have):
            if prune:
                drifts.append(Drift(kind, identity, "", "", "there"))
            else:
                alone.append(f"{kind}.{identity}")
    return Comparison(tuple(drifts), tuple(alone))


def _stays(entry: Entry | None) -> bool:
    """Return whether a file says nothing of an entry by not having it: a node's drain."""
    return isinstance(entry, DeclaredNode) and not entry.pinned


def _drifts(kind: Kind, identity: str, want: Entry, have: Entry | None) -> Iterator[Drift]:
    if have is None and isinstance(want, DeclaredNode):
        have = DeclaredNode()
    if have is None:
        if kind.startswith("limits.") and not any(values_of(identity, want).values()):
            return  # no limits are as good as none
        yield Drift(kind, identity, "", "there", "")
        return
    wanted, present = values_of(identity, want), values_of(identity, have)
    if isinstance(want, DeclaredNode):
        if want.draining is None:
            del wanted["draining"], present["draining"]
        else:
            present["draining"] = bool(present["draining"])
    for field in dict.fromkeys((*wanted, *present)):
        one, other = wanted.get(field), present.get(field)
        if one != other and not _hidden(field, one, other):
            yield Drift(kind, identity, field, _text(field, one), _text(field, other))


def _hidden(field: str, file: object, cluster: object) -> bool:
    """Return whether a file has the mask of a secret that is still in the log in clear."""
    if MASK not in str(file):
        return False
    key = field.partition(".")[2]
    return bool(without_secrets({key: cluster}) == {key: file})


def _text(field: str, value: Any) -> str:
    if value is None or value == "":
        return NOT_SET
    key = field.partition(".")[2] or field
    value = shown({key: value})[key]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return one_line(text, LONGEST_VALUE)


class Causes:
    """Folds a log, and keeps for each declared field the event that made it as it is."""

    def __init__(self) -> None:
        self.state = EMPTY
        self._of: dict[tuple[Kind, str, str], Cause] = {}

    def take(self, record: Record) -> None:
        """Fold one more record."""
        before, self.state = self.state, evolve(self.state, record)
        for kind in KIND_OF_AGGREGATE.get(record.aggregate, ()):
            if _untouched(before, self.state, kind, record.id):
                continue
            self._note(kind, record, entry_of_state(before, kind, record.id))

    def _note(self, kind: Kind, record: Record, had: Entry | None) -> None:
        has = entry_of_state(self.state, kind, record.id)
        if had == has:
            return
        by = record.by or record.actor
        cause = Cause(record.seq, record.time, by, record.type)
        if had is None or has is None:
            self._of[kind, record.id, ""] = cause
        old = values_of(record.id, had) if had is not None else {}
        new = values_of(record.id, has) if has is not None else {}
        for field in {*old, *new}:
            if old.get(field) != new.get(field):
                self._of[kind, record.id, field] = cause

    def of(self, drift: Drift) -> Drift:
        """Return a drift with its cause, if the log has one."""
        cause = self._of.get((drift.kind, drift.id, drift.field))
        cause = cause or self._of.get((drift.kind, drift.id, ""))
        return msgspec.structs.replace(drift, cause=cause)


def _untouched(before: State, after: State, kind: Kind, identity: str) -> bool:
    """Return whether a record can't have changed a declaration: most are plans and downloads."""
    if kind != "models":
        return False
    old, new = before.models.get(identity), after.models.get(identity)
    if old is None or new is None:
        return old is new
    return (
        old.spec is new.spec
        and old.adapters is new.adapters
        and old.name == new.name
        and old.unloading == new.unloading
    )


def sentences(found: Comparison) -> Iterator[str]:
    """Yield what differs as lines for people."""
    for drift in found.drifts:
        if drift.field:
            yield f"~ {drift.path}: {drift.file} in the file, {drift.cluster} in the cluster"
        elif drift.file:
            yield f"- {drift.path}: in the file, and not in the cluster"
        else:
            yield f"+ {drift.path}: in the cluster, and not in the file"
        if drift.cause is not None:
            yield f"    {told(drift.cause)}"
    if found.alone:
        yield f"not in the file, and left alone without --prune: {', '.join(found.alone)}"


def told(cause: Cause) -> str:
    """Return the event that made something so, in words."""
    by = f", by {cause.by}" if cause.by else ""
    return shown(f"since event {cause.seq}, {clock(cause.time)}: {cause.type}{by}")


def by_path(found: Comparison) -> Mapping[str, Drift]:
    """Return what differs by where it is in the file."""
    return {each.path: each for each in found.drifts}
