"""Which events somebody wants to see: filters over records and the state that they met. Pure."""

from collections.abc import Mapping

from msgspec import Struct

from nebula.events.record import Malformed, Record
from nebula.events.state import State
from nebula.events.vocabulary import AGGREGATES, EventRejected, ModelAssigned

_TRUTH = {
    **dict.fromkeys(("", "0", "false", "no"), False),
    **dict.fromkeys(("1", "true", "yes"), True),
}


class Selection(Struct, frozen=True):
    """All that is set must hold.

    `aggregates`: `model`, `chat` or `model/chat`, any of them; a model stands for its replicas
    too. `types`: names of events. `node`: what happened to a node, on it, or was planned for it.
    `cause`: what the event at this sequence led to, directly or by others. `rejected`: only
    entries that were not acted upon, and the answers to them.
    """

    aggregates: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    node: str = ""
    cause: int | None = None
    rejected: bool = False


class Sieve:
    """Lets the selected records through, one after the other in the log's order."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._effects = set() if selection.cause is None else {selection.cause}
        self._aggregates = set(selection.aggregates) - set(AGGREGATES)

    @property
    def unknown(self) -> list[str]:
        """The aggregates that were selected by their name, and that no record so far is about."""
        return sorted(self._aggregates)

    def passes(self, record: Record, before: State, after: State) -> bool:
        """Say whether a record is selected; `before` and `after` are the states around it."""
        wanted = self._selection
        self._aggregates -= {e for e in self._aggregates if _belongs(record, e, before, after)}
        if wanted.cause is not None:
            if record.cause not in self._effects:
                return False
            self._effects.add(record.seq)
        if wanted.types and record.type not in wanted.types:
            return False
        if wanted.aggregates and not any(
            _belongs(record, each, before, after) for each in wanted.aggregates
        ):
            return False
        if wanted.node and not _on_node(record, wanted.node, before, after):
            return False
        return not wanted.rejected or is_rejection(record, after)


def is_rejection(record: Record, after: State) -> bool:
    """Say whether a record was not acted upon, or tells so of another."""
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
    """Give the model that a replica belongs to, also when it is long gone."""
    for state in states:
        known = state.replicas.get(replica)
        if known is not None:
            return known.model
    return replica.rpartition("-")[0]


def _on_node(record: Record, node: str, before: State, after: State) -> bool:
    if record.aggregate == "node":
        return record.id == node
    if record.aggregate == "replica":
        known = before.replicas.get(record.id) or after.replicas.get(record.id)
        return known is not None and known.node == node
    if isinstance(record.content, ModelAssigned):
        planned = {each.node for each in record.content.replicas}
        model = before.models.get(record.id)
        had = {each.node for each in model.assignments} if model is not None else set()
        return node in planned | had
    return False


def selection(fields: Mapping[str, str]) -> Selection:
    """Read a selection from text fields, as a query string has them. Raises ValueError."""
    cause = fields.get("cause")
    digits = cause is not None and cause.isascii() and cause.isdigit() and len(cause) < 19
    if cause is not None and not (digits and int(cause)):
        raise ValueError(f"cause: {cause!r} is no sequence")
    rejected = _TRUTH.get(fields.get("rejected", ""))
    if rejected is None:
        raise ValueError(f"rejected: {fields['rejected']!r} is neither true nor false")
    return Selection(
        tuple(filter(None, fields.get("aggregate", "").split(","))),
        tuple(filter(None, fields.get("type", "").split(","))),
        fields.get("node", ""),
        None if cause is None else int(cause),
        rejected,
    )
