"""The fold of an alias's events: the models that a name stands for."""

from typing import assert_never

from msgspec.structs import replace

from nebula.events.alias import Alias
from nebula.events.intents import AliasRemoveRequested, AliasRequested
from nebula.events.record import Record
from nebula.events.state import NameBinding, State
from nebula.events.vocabulary import AliasEvent


def fold_alias(state: State, record: Record, event: AliasEvent) -> State:
    """Fold a valid event of an alias."""
    known = state.aliases.get(record.id)
    names = state.names if known is None else state.names.discard(known.name)
    match event:
        case AliasRequested(targets=targets, mirror=mirror):
            alias = Alias(record.id, event.name or record.id, targets, mirror, record.seq)
            binding = NameBinding("", alias=alias.id)
            return replace(
                state,
                aliases=state.aliases.insert(alias.id, alias),
                names=names.insert(alias.name, binding),
            )
        case AliasRemoveRequested():
            return replace(state, aliases=state.aliases.discard(record.id), names=names)
        case _:
            assert_never(event)
