"""Which records of a stretch of the log explain how a model, a replica or a node came to be. Pure.

`nebula why` reads a log from its beginning. What answers over HTTP reads a stretch of it, from the
last request for what is asked about, if that is not too far back.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from nebula.events.intents import AdapterLoadRequested, ModelLoadRequested
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.values import Assignment
from nebula.events.vocabulary import AdapterLoaded, ModelAssigned
from nebula.history.event_filter import model_of
from nebula.history.explanation import Causes, without_gaps
from nebula.history.node_story import node_verdict
from nebula.history.outcome import Coming, coming
from nebula.history.subject import (
    Subject,
    Verdict,
    belongs,
    replica_status,
    resolve_subject,
    verdict,
)


class Stretch(Struct, frozen=True):
    """The records that follow a state, without gaps; `end` is the state after the last of them."""

    start: State
    records: Sequence[Record]
    end: State


class About(Struct, frozen=True):
    """What is asked about, and what asked for it last.

    `asked`: the kind, id and type of event of that. `subject`: the model behind it.
    """

    kind: str
    id: str
    asked: tuple[str, str, str]
    subject: Subject | None = None


def about(state: State, kind: str, reference: str) -> About | None:
    """Return what a name stands for in a state; None for nothing. `kind`: "" for any."""
    subject = resolve_subject(state, reference) if kind in ("", "model") else None
    if subject is not None:
        of = "alias" if subject.kind == "alias" else "model"
        types = {
            "model": "ModelLoadRequested",
            "alias": "AliasRequested",
            "adapter": "AdapterLoadRequested",
        }
        return About(subject.kind, reference, (of, subject.id, types[subject.kind]), subject)
    if kind in ("", "replica") and reference in state.replicas:
        model = model_of(reference, state)
        of_model = ("model", model, "ModelLoadRequested")
        return About("replica", reference, of_model, Subject("model", model))
    if kind in ("", "node") and reference in state.nodes:
        return About("node", reference, ("node", reference, "NodeRegistered"))
    return None


def stands(state: State, asked: About, now: int | None = None) -> Verdict:
    """Return how what is asked about stands; `now` as for `model_status`."""
    if asked.kind == "node":
        return node_verdict(state, asked.id, now)
    assert asked.subject is not None
    told = verdict(state, asked.subject, now)
    if asked.kind == "replica":
        return Verdict(replica_status(state, state.replicas[asked.id], now), told.todo)
    return told


def awaited(state: State, subject: Subject | None) -> tuple[Coming, ...]:
    """Return what has to come for a model or an adapter to stand as it is asked to."""
    model = state.models.get(subject.id) if subject and subject.kind != "alias" else None
    return tuple(coming(state, model)) if model is not None else ()


def with_silence(told: Verdict, silent: str) -> Verdict:
    """Return advice that replaces "wait" if the actors that would have to act are `silent`."""
    return replace(told, todo=f"{silent[0].upper()}{silent[1:]}.") if silent else told


def chosen(asked: About, stretch: Stretch) -> tuple[set[int], int]:
    """Return the sequences that explain a model, an alias, an adapter or a replica.

    The number is that of earlier records about it, which are left out.
    """
    assert asked.subject is not None
    causes = Causes()
    for record in stretch.records:
        causes.take(record)
    if asked.kind == "replica":
        own = {each.seq for each in stretch.records if _of_replica(each, asked.id)}
        plans = _plans(asked.subject.id, asked.id, stretch)
        known = own | set(plans)
        begin = last_start(max(own, default=0), plans) if plans else 0
        return causes.chain(seq for seq in known if seq >= begin), sum(s < begin for s in known)
    found = [each for each in stretch.records if belongs(asked.subject, each, stretch.end)]
    begin = last_asked(stretch.end, found)
    told = {record.seq for record in found if record.seq >= begin}
    if asked.subject.kind == "model":
        told = without_gaps(causes, found, begin)
    return told, sum(record.seq not in told for record in found)


def last_asked(state: State, found: Sequence[Record]) -> int:
    """Begin with the last request for a model or an adapter. An alias shows all: it has moved.

    For an adapter that was loaded before that, begin where it was loaded.
    """
    kinds = ModelLoadRequested | AdapterLoadRequested
    asked = [record.seq for record in found if isinstance(record.content, kinds)]
    reports = {each.id: each.seq for each in found if isinstance(each.content, AdapterLoaded)}
    there = [seq for replica, seq in reports.items() if replica in state.replicas]
    of_model = any(isinstance(each.content, ModelAssigned) for each in found)
    return min([asked[-1], *([] if of_model else there)]) if asked else 0


def last_start(newest: int, plans: Sequence[int]) -> int:
    """Begin with the plan that made a replica's newest engine start, of which `newest` tells."""
    return max((seq for seq in plans if seq <= newest), default=plans[-1])


def _of_replica(record: Record, replica: str) -> bool:
    return record.aggregate == "replica" and record.id == replica


def _plans(model: str, replica: str, stretch: Stretch) -> list[int]:
    """Find the plans that changed a replica: that brought it, moved it, or let it go."""
    known = stretch.start.models.get(model)
    before = _place(known.assignments if known is not None else (), replica)
    found = []
    for record in stretch.records:
        if record.id == model and isinstance(record.content, ModelAssigned):
            now = _place(record.content.replicas, replica)
            if now != before:
                found.append(record.seq)
            before = now
    return found


def _place(places: Sequence[Assignment], replica: str) -> Assignment | None:
    return next((each for each in places if each.replica == replica), None)
