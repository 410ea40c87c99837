"""Selects events: filters over records and the states around them. Pure."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from nebula.events.record import Malformed, Record
from nebula.events.state import State
from nebula.events.vocabulary import AGGREGATES, EventRejected, ModelAssigned

_TRUTH = {
    **dict.fromkeys(("", "0", "false", "no"), False),
    **dict.fromkeys(("1", "true", "yes"), True),
}

_NAMED = 8
"""Types of events that are listed if none had the requested type."""


class FilterSpec(Struct, frozen=True):
    """A filter of events: every condition that is set must hold.

    `aggregates`: any of `model`, `chat` or `model/chat`; a model includes its replicas. `types`:
    names of event types. `node`: events about a node or about what runs there. `cause`: direct and
    indirect consequences of the event at this sequence. `rejected`: rejected entries and their
    rejections only. `by`: events of this principal, or that this actor wrote of itself.
    """

    aggregates: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    node: str = ""
    cause: int | None = None
    rejected: bool = False
    by: str = ""

    @property
    def needs_states(self) -> bool:
        """Whether the filter needs the states around a record, not only the record."""
        return bool(self.node or self.rejected or set(self.aggregates) - set(AGGREGATES))


class EventFilter:
    """Selects records one after the other, in the log's order."""

    def __init__(self, selection: FilterSpec) -> None:
        self.selection = selection
        self.effects = set() if selection.cause is None else {selection.cause}
        self._aggregates = set(selection.aggregates) - set(AGGREGATES)
        self._seen = 0
        self._met: Counter[str] = Counter()
        self._types: Counter[str] = Counter()

    def copy(self) -> "EventFilter":
        """Return a copy that has seen the same records."""
        made = EventFilter(self.selection)
        made.effects, made._aggregates = set(self.effects), set(self._aggregates)
        return made

    @property
    def unknown(self) -> list[str]:
        """The aggregates that were selected by name and that no record so far is about."""
        return sorted(self._aggregates)

    def passes(self, record: Record, before: State, after: State) -> bool:
        """Return whether a record is selected; `before` and `after` are the states around it."""
        wanted = self.selection
        self._aggregates -= {e for e in self._aggregates if _belongs(record, e, before, after)}
        met: dict[str, bool] = {}
        if wanted.aggregates:
            about = " or ".join(wanted.aggregates)
            met[f"about {about}"] = any(
                _belongs(record, each, before, after) for each in wanted.aggregates
            )
        if wanted.node:
            met[f"about node {wanted.node}, on it or planned for it"] = _on_node(
                record, wanted.node, before, after
            )
        if wanted.cause is not None:
            met[f"a consequence of event {wanted.cause}"] = follows = record.cause in self.effects
            if follows:
                self.effects.add(record.seq)
        if wanted.rejected:
            met["rejected, or a rejection"] = is_rejection(record, after)
        if wanted.by:
            met[f"by {wanted.by}"] = wanted.by == (record.by or record.actor)
        otherwise = all(met.values())
        if wanted.types:
            met[f"of type {' or '.join(wanted.types)}"] = record.type in wanted.types
        self._seen += 1
        self._met.update({words: int(so) for words, so in met.items()})
        self._types[record.type] += otherwise
        return all(met.values())

    def nothing(self, name: str) -> str:
        """Return what a log has instead, if nothing was selected; `name`: the log's name."""
        if not self._met:
            return f"there is no event of {name} at that time"
        if self.selection == FilterSpec(rejected=True):
            return f"nothing was rejected: all {self._seen} events of {name} were acted upon"
        verbs = {0: "none is", 1: "1 is"}
        found = ", ".join(
            f"{verbs.get(count, f'{count} are')} {words}" for words, count in self._met.items()
        )
        text = f"no event meets all conditions: of the {self._seen} of {name}, {found}"
        types = [f"{kind} ({count})" for kind, count in self._types.most_common(_NAMED) if count]
        if self.selection.types and types:
            rest = "" if len(types) < _NAMED else " and others"
            text += f"; what there is: {', '.join(types)}{rest}"
        return text


def is_rejection(record: Record, after: State) -> bool:
    """Return whether a record was rejected, or is the rejection of another."""
    return isinstance(record.content, Malformed | EventRejected) or record.seq in after.rejections


def _belongs(record: Record, wanted: str, before: State, after: State) -> bool:
    kind, slash, identity = wanted.partition("/")
    if not slash and kind in AGGREGATES:
        return record.aggregate == kind
    if not slash:
        kind, identity = "", wanted
    if record.id == identity and kind in ("", record.aggregate):
        return True
    if kind in ("", "model") and record.aggregate == "replica":
        return model_of(record.id, before, after) == identity
    return False


def model_of(replica: str, *states: State) -> str:
    """Return the model that a replica belongs to, even if the model is gone."""
    for state in states:
        known = state.replicas.get(replica)
        if known is not None:
            return known.model
    return replica.rpartition("-")[0]


def _on_node(record: Record, node: str, before: State, after: State) -> bool:
    if record.aggregate == "node":
        return record.id == node
    if record.node == node:
        return True
    if record.aggregate == "replica":
        known = before.replicas.get(record.id) or after.replicas.get(record.id)
        return known is not None and known.node == node
    if isinstance(record.content, ModelAssigned):
        planned = {each.node for each in record.content.replicas}
        model = before.models.get(record.id)
        had = {each.node for each in model.assignments} if model is not None else set()
        return node in planned | had
    return False


def selection(fields: Mapping[str, str]) -> FilterSpec:
    """Read a selection from text fields, as in a query string. Raise ValueError."""
    cause = fields.get("cause")
    digits = cause is not None and cause.isascii() and cause.isdigit() and len(cause) < 19
    if cause is not None and not (digits and int(cause)):
        raise ValueError(f"cause: {cause!r} is not a sequence")
    rejected = _TRUTH.get(fields.get("rejected", ""))
    if rejected is None:
        raise ValueError(f"rejected: {fields['rejected']!r} is neither true nor false")
    return FilterSpec(
        tuple(filter(None, fields.get("aggregate", "").split(","))),
        tuple(filter(None, fields.get("type", "").split(","))),
        fields.get("node", ""),
        None if cause is None else int(cause),
        rejected,
        fields.get("by", ""),
    )
