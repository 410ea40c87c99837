"""Why things are as they are: the chain of events behind a model, replica or event, in words. Pure.

What a router weighed is not in the log. It is worked out again from the state that it had folded,
which is exact as long as the replay check holds; where it does not, the story says so.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from nebula.actors.placement import candidates
from nebula.actors.placement.candidates import Candidate
from nebula.actors.placement.planning import Choice, plan
from nebula.actors.placement.sizing import sized_by
from nebula.events import index, memory
from nebula.events.intents import NodeDrainRequested, NodeUndrainRequested
from nebula.events.record import Malformed, Record
from nebula.events.state import Model, State, launch_of
from nebula.events.values import Assignment, Policy
from nebula.events.vocabulary import (
    Decided,
    Event,
    ModelAssigned,
    ModelUnschedulable,
    NodeDeregistered,
    NodeLost,
    NodeRegistered,
)
from nebula.history.replay import Replay
from nebula.history.telling import told

SHOWN = 8
"""Candidates of one choice, and choices of one plan, that are told: nobody reads a thousand."""


class Line(Struct, frozen=True):
    """One event of a story, and below it what its maker saw. `depth` counts its causes in it."""

    seq: int
    time: int
    subject: str
    actor: str
    cause: int | None
    depth: int
    text: str
    reasons: tuple[str, ...] = ()


class Chronicle:
    """Folds a log and keeps the lines that belong to a story.

    `wanted` says of each record whether it belongs, given the states before and after it.
    """

    def __init__(
        self, wanted: Callable[[Record, State, State], bool], replay: Replay | None = None
    ) -> None:
        self.replay = replay or Replay()
        self.lines: list[Line] = []
        self._wanted = wanted
        self._depths: dict[int, int] = {}

    @property
    def state(self) -> State:
        """The state after all that was taken."""
        return self.replay.state

    def take(self, record: Record) -> None:
        """Fold one more record. Raises BadLog."""
        before = self.replay.state
        basis = self.replay.state_at(record.basis) if record.basis is not None else None
        differs = self.replay.take(record) is not None
        if not self._wanted(record, before, self.replay.state):
            return
        depth = self._depths.get(record.cause, -1) + 1 if record.cause is not None else 0
        self._depths[record.seq] = depth
        reasons = _reasons(record, basis)
        rejection = self.replay.state.rejections.get(record.seq)
        if rejection is not None and not isinstance(record.content, Malformed):
            reasons = (*reasons, f"not acted upon: {rejection.reason}")
        if differs:
            reasons = (*reasons, "this Nebula would have decided otherwise: see `nebula replay`")
        self.lines.append(
            Line(
                record.seq,
                record.time,
                record.subject,
                record.actor,
                record.cause,
                depth,
                told(record),
                reasons,
            )
        )


class Causes:
    """What led to what: every sequence with those that caused it, for one pass over a log.

    A plan names the event that let it be made; that a node it moves replicas away from was lost
    or drained may have happened before, and is a cause too.
    """

    def __init__(self) -> None:
        self._cause: dict[int, int] = {}
        self._before: dict[int, frozenset[int]] = {}
        self._lost: dict[str, int] = {}
        self._drained: dict[str, int] = {}
        self._nodes: dict[str, frozenset[str]] = {}

    def take(self, record: Record) -> None:
        """Note one more record."""
        if record.cause is not None:
            self._cause[record.seq] = record.cause
        match record.content:
            case NodeLost():
                self._lost[record.id] = record.seq
            case NodeDrainRequested():
                self._drained[record.id] = record.seq
            case NodeRegistered():
                self._lost.pop(record.id, None)
            case NodeUndrainRequested():
                self._drained.pop(record.id, None)
            case NodeDeregistered():
                self._lost.pop(record.id, None)
                self._drained.pop(record.id, None)
            case ModelAssigned(replicas=places):
                self._note(record)
                self._nodes[record.id] = frozenset(place.node for place in places)
            case ModelUnschedulable():
                self._note(record)

    def _note(self, record: Record) -> None:
        closed = {**self._drained, **self._lost}
        away = self._nodes.get(record.id, frozenset()) & closed.keys()
        if away:
            self._before[record.seq] = frozenset(closed[node] for node in away)

    def chain(self, seqs: Iterable[int]) -> set[int]:
        """Give these sequences and all that led to them."""
        found: set[int] = set()
        left = list(seqs)
        while left:
            seq = left.pop()
            if seq not in found:
                found.add(seq)
                left += self._before.get(seq, ())
                left += [self._cause[seq]] if seq in self._cause else []
        return found

    def effects(self, seq: int) -> set[int]:
        """Give this sequence and all that it led to."""
        found = {seq}
        for later in sorted(self._cause):
            if self._cause[later] in found:
                found.add(later)
        return found


def without_gaps(causes: Causes, found: Iterable[Record], begin: int) -> set[int]:
    """Give what a story tells that begins at a sequence, and all that led to it.

    Where that goes back to plans before, it tells every plan since: from one to the next but one
    nobody could follow it.
    """
    records = list(found)
    about = causes.chain(record.seq for record in records if record.seq >= begin)
    own = [record.seq for record in records if record.seq in about]
    plans = [record.seq for record in records if isinstance(record.content, ModelAssigned)]
    first = min(own, default=begin)
    return about | causes.chain(seq for seq in plans if seq >= first)


def _reasons(record: Record, basis: State | None) -> tuple[str, ...]:
    event = record.content
    if not isinstance(event, Decided):
        return ()
    if record.actor.startswith("revert to "):
        return ("brought back by `nebula revert`",)
    if record.basis is None:
        return ("written by hand: no router decided this",)
    if record.basis >= record.seq:
        return (f"it says that it was decided after event {record.basis}, which came later",)
    if basis is None:
        return ("what the router saw lies before what was folded here",)
    return weighed(basis, record.id, event)


def weighed(basis: State, identity: str, event: Event) -> tuple[str, ...]:
    """Say what a router saw when it decided on a model: what was kept, and every candidate."""
    model = basis.models.get(identity)
    if model is None or not isinstance(event, ModelAssigned | ModelUnschedulable):
        return ()
    planned = plan(basis, model, tell=True)
    reasons = []
    if planned.kept:
        reasons.append(f"kept where they are: {', '.join(planned.kept)}")
    launch = launch_of(model)
    whys = {
        each.id: why
        for each in basis.replicas_of(model)
        if (why := index.stale(basis, model, each, launch))
    }
    versions = {each.replica: each.version for each in model.assignments}
    anew = {
        each.replica for each in planned.assignments if each.version != versions.get(each.replica)
    }
    for each in planned.kept:
        if each in anew:
            why = whys.get(each, "it had been given up")
            reasons.append(f"{each} starts anew where it is: {why}")
        elif each in whys and basis.replicas[each].serving:
            reasons.append(f"{each} serves until another one can: {whys[each]}")
    reasons += [_evicted(basis, model, each, whys.get(each, "")) for each in planned.evicted]
    if planned.choices and (sized := sized_by(model)):
        reasons.append(sized)
    placed = [each for each in planned.assignments if each.replica in planned.kept]
    passed = 0
    for number, choice in enumerate(planned.choices):
        if number < SHOWN or choice is planned.choices[-1]:
            reasons += [f"and {passed} further replicas likewise"] if passed else []
            reasons += _choice(choice, model.spec.policy, _Holders(basis, model, placed))
        else:
            passed += 1
        placed += [each for each in planned.assignments if each.replica == choice.replica]
    return tuple(reasons)


def _evicted(basis: State, model: Model, replica: str, why: str) -> str:
    known = basis.replicas.get(replica)
    node = basis.nodes.get(known.node) if known is not None else None
    if known is None or node is None:
        return f"{replica} had to go: its node has left"
    if node.lost:
        return f"{replica} had to go: {node.id} is lost"
    if why:
        return f"{replica} goes: {why}"
    if known.given_up:
        return f"{replica} goes: it had been given up"
    if len(model.assignments) > model.wanted:
        wanted = "1 replica is" if model.wanted == 1 else f"{model.wanted or 'no'} replicas are"
        return f"{replica} goes: {wanted} wanted"
    return f"{replica} had to go from {node.id}: its device is not there any more, or too small"


class _Holders:
    """Who holds the room on devices, as a plan saw it that had placed some replicas already."""

    def __init__(self, basis: State, model: Model, placed: list[Assignment]) -> None:
        planned = {each.replica for each in placed}
        self._held = [
            (each.node, each.devices, each.id, each.memory)
            for each in basis.replicas.values()
            if (each.model != model.id or each.retired or (each.engine and each.id not in planned))
            and each.memory
        ]
        self._held += [(each.node, each.devices, each.replica, each.memory) for each in placed]

    def of(self, each: Candidate) -> str:
        """Name them where a device has too little room; the largest first."""
        if " left, needs " not in each.unfit:
            return ""
        found = sorted(
            (-size, replica)
            for node, devices, replica, size in self._held
            if node == each.node and not set(each.devices).isdisjoint(devices)
        )
        listed = [f"{replica} has {memory.text(-size)}" for size, replica in found[:SHOWN]]
        rest = [f"{len(found) - SHOWN} others have the rest"] if len(found) > SHOWN else []
        return "".join(f", {text}" for text in listed + rest)


def _choice(choice: Choice, policy: Policy, holders: _Holders) -> list[str]:
    if not choice.candidates:
        return [f"{choice.replica}: there is no node"]
    best = choice.candidates[0]
    if best.unfit:
        lines = [f"{choice.replica}: no candidate can take it"]
        rest = choice.candidates
    else:
        lines = [
            f"{choice.replica}: {best.name} was chosen, {memory.text(best.room)} of it were free "
            f"and {memory.text(best.need)} were needed"
        ]
        rest = choice.candidates[1:]
    lines += [
        f"{choice.replica}: not {each.name}: "
        f"{candidates.why_not(each, best, policy)}{holders.of(each)}"
        for each in rest[:SHOWN]
    ]
    if len(rest) > SHOWN:
        lines.append(f"{choice.replica}: nor {len(rest) - SHOWN} others")
    return lines
