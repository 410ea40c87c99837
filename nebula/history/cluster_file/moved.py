"""Whether a plan that was shown still holds, although the log has gone on since. Pure."""

from collections.abc import Iterator, Sequence

from nebula.events.record import Record
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.events.vocabulary import INTENTS
from nebula.history.change_plan import plan_change
from nebula.history.cluster_file.change import change_to
from nebula.history.cluster_file.declaration import (
    KIND_OF_AGGREGATE,
    ClusterFile,
    Kind,
    entries_of_state,
)
from nebula.history.description import describe
from nebula.history.moments import clock


def moved(
    before: State, now: State, since: Sequence[Record], file: ClusterFile, *, prune: bool
) -> tuple[str, ...]:
    """Return what has made another plan necessary since `before`, in lines; nothing if none is.

    Engines that start and downloads that go on don't count, unless they change the plan. What
    people asked for counts, also where the plan would stay the same.
    """
    told = tuple(_asked(before, now, since))
    if told:
        return told
    if _outcome(before, file, prune) == _outcome(now, file, prune):
        return ()
    return (f"routers or nodes have changed the cluster since event {before.seq}: other places",)


def _asked(before: State, now: State, since: Sequence[Record]) -> Iterator[str]:
    """Yield the events that have changed what is declared."""
    old, new = entries_of_state(before), entries_of_state(now)
    differing = {key for key in {*old, *new} if old.get(key) != new.get(key)}
    left = set(differing)
    for record in since:
        kinds: tuple[Kind, ...] = KIND_OF_AGGREGATE.get(record.aggregate, ())
        found = {(kind, record.id) for kind in kinds} & differing
        if found and record.type in INTENTS:
            left -= found
            by = record.by or record.actor
            yield shown(
                f"event {record.seq}, {clock(record.time)}, {record.aggregate} {record.id}: "
                f"{describe(record)}{f', by {by}' if by else ''}"
            )
    for kind, identity in sorted(left):
        yield f"{kind}.{identity} is declared otherwise since event {before.seq}"


def _outcome(state: State, file: ClusterFile, prune: bool) -> object:
    """Return what a plan comes to, without its figures."""
    change = change_to(file, state, prune=prune)
    plan = plan_change(state, change.intents)
    effects = [(each.kind, each.replica, each.node) for each in plan.effects if not each.anyway]
    lacks = [(each.model, each.missing) for each in plan.lacks]
    return change.intents, change.refused, effects, lacks, plan.refused
