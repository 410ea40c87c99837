"""Explains a state: the chain of events behind a model, replica or event, in words. Pure.

The alternatives that a router weighed are not in the log. They are computed again from the state
that it had folded, which is exact as long as the replay check holds; if it does not, the story says
so.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from nebula.actors.placement import candidates
from nebula.actors.placement.candidates import Lack, PlacementCandidate
from nebula.actors.placement.planning import Choice, plan
from nebula.actors.placement.sizing import device_at, need_in_words, sized_by, usable
from nebula.events import drift, memory
from nebula.events.intents import NodeDrainRequested, NodeUndrainRequested
from nebula.events.record import Malformed, Record
from nebula.events.state import Model, State, launch_of
from nebula.events.values import Assignment, Device
from nebula.events.vocabulary import (
    Decided,
    Event,
    ModelAssigned,
    ModelUnschedulable,
    NodeDeregistered,
    NodeLost,
    NodeRegistered,
    NodeStopped,
)
from nebula.history.description import describe
from nebula.history.replay import Replay

SHOWN = 8
"""Candidates of one choice, and choices of one plan, that are listed, at most."""


class ExplanationLine(Struct, frozen=True):
    """One event of a story, with what its maker saw. `depth` counts its causes in the story."""

    seq: int
    time: int
    subject: str
    actor: str
    cause: int | None
    depth: int
    text: str
    reasons: tuple[str, ...] = ()
    by: str = ""


class Chronicle:
    """Folds a log and keeps the lines that belong to a story.

    `wanted` returns whether a record belongs to it, given the states before and after it.
    """

    def __init__(
        self, wanted: Callable[[Record, State, State], bool], replay: Replay | None = None
    ) -> None:
        self.replay = replay or Replay()
        self.lines: list[ExplanationLine] = []
        self._wanted = wanted
        self._depths: dict[int, int] = {}

    @property
    def state(self) -> State:
        """The state after all folded records."""
        return self.replay.state

    def take(self, record: Record) -> None:
        """Fold one more record. Raise BadLog."""
        before = self.replay.state
        basis = self.replay.state_at(record.basis) if record.basis is not None else None
        by_older = self.replay.by_older
        differs = self.replay.take(record) is not None
        if not self._wanted(record, before, self.replay.state):
            return
        depth = self._depths.get(record.cause, -1) + 1 if record.cause is not None else 0
        self._depths[record.seq] = depth
        reasons = _reasons(record, basis)
        rejection = self.replay.state.rejections.get(record.seq)
        if rejection is not None and not isinstance(record.content, Malformed):
            reasons = (*reasons, f"rejected: {rejection.reason}")
        if self.replay.by_older > by_older:
            reasons = (*reasons, "an older version wrote this, which did not know the event")
        if differs:
            reasons = (
                *reasons,
                "this Nebula would have decided otherwise: `nebula replay` compares",
            )
        self.lines.append(
            ExplanationLine(
                record.seq,
                record.time,
                record.subject,
                record.actor,
                record.cause,
                depth,
                describe(record, before),
                reasons,
                record.by,
            )
        )


class Causes:
    """The causes of every sequence, collected in one pass over a log.

    A plan names the event that led to it. If it moves replicas away from a lost or drained node,
    that loss or drain is a cause too, although it may have happened earlier.
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
            case NodeLost() | NodeStopped():
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
        """Return these sequences and all their causes."""
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
        """Return this sequence and all its consequences."""
        found = {seq}
        for later in sorted(self._cause):
            if self._cause[later] in found:
                found.add(later)
        return found


def without_gaps(causes: Causes, found: Iterable[Record], begin: int) -> set[int]:
    """Return the sequences of a story that begins at a sequence, with all their causes.

    If that reaches back to earlier plans, it includes every plan since, because a story with gaps
    between plans could not be followed.
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
        return ("written to bring an earlier state back",)
    if record.basis is None:
        return ("written by hand: no router decided this",)
    if record.basis >= record.seq:
        return (f"its basis is event {record.basis}, which came later",)
    if basis is None:
        return ("its basis is older than what was folded here",)
    return weighed(basis, record.id, event)


def weighed(basis: State, identity: str, event: Event) -> tuple[str, ...]:
    """Return what a router weighed for a model: kept replicas, and all candidates."""
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
        if (why := drift.stale(basis, model, each, launch))
    }
    versions = {each.replica: each.version for each in model.assignments}
    anew = {
        each.replica for each in planned.assignments if each.version != versions.get(each.replica)
    }
    for each in planned.kept:
        if each in anew:
            why = whys.get(each, "its node had stopped trying")
            reasons.append(f"{each} is restarted in place: {why}")
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
            reasons += _Told(basis, model, placed).choice(choice)
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
        return f"{replica} goes: its node had stopped trying to start it"
    if len(model.assignments) > model.wanted:
        wanted = "1 replica is" if model.wanted == 1 else f"{model.wanted or 'no'} replicas are"
        return f"{replica} goes: {wanted} wanted"
    return f"{replica} had to go from {node.id}: its device is not there any more, or too small"


class _Holders:
    """Which replicas use the memory of devices, as a plan saw it after placing some replicas."""

    def __init__(self, basis: State, model: Model, placed: list[Assignment]) -> None:
        planned = {each.replica for each in placed}
        self._held = [
            (each.node, each.devices, each.id, each.memory)
            for each in basis.replicas.values()
            if (each.model != model.id or each.retired or (each.engine and each.id not in planned))
            and each.memory
        ]
        self._held += [(each.node, each.devices, each.replica, each.memory) for each in placed]

    def of(self, each: PlacementCandidate) -> list[tuple[int, str]]:
        """Return how many bytes of a candidate's devices which replicas have, the largest first."""
        return sorted(
            [
                (size, replica)
                for node, devices, replica, size in self._held
                if node == each.node and not set(each.devices).isdisjoint(devices)
            ],
            key=lambda held: (-held[0], held[1]),
        )


class _Told:
    """Explains the choices of one plan: which device was taken, and why the others were not."""

    def __init__(self, basis: State, model: Model, placed: list[Assignment]) -> None:
        self._basis = basis
        self._model = model
        self._holders = _Holders(basis, model, placed)

    def choice(self, choice: Choice) -> list[str]:
        """Return the words for one choice."""
        if not choice.candidates:
            return [f"{choice.replica}: there is no node"]
        best = choice.candidates[0]
        if best.unfit:
            lines = [f"{choice.replica}: no candidate can take it"]
            rest = choice.candidates
        else:
            free = memory.text(best.room)
            lines = [
                f"{choice.replica}: {best.name} was chosen, {free} of it were free; "
                f"needed: {self._needed(best)}"
            ]
            rest = choice.candidates[1:]
        lines += [
            f"{choice.replica}: not {each.name}: {self._lost(each, best)}" for each in rest[:SHOWN]
        ]
        if len(rest) > SHOWN:
            lines.append(f"{choice.replica}: nor {len(rest) - SHOWN} others")
        return lines

    def _device(self, each: PlacementCandidate) -> Device | None:
        """Return a candidate's device; of several the largest, as its need is that of all."""
        node = self._basis.nodes.get(each.node)
        found = [device_at(node, index) for index in each.devices] if node is not None else []
        return max(filter(None, found), key=lambda device: device.memory, default=None)

    def _needed(self, each: PlacementCandidate) -> str:
        device = self._device(each)
        if device is None:
            return memory.text(each.need)
        said = need_in_words(self._model, device, len(each.devices))
        return f"{said}, on each device" if len(each.devices) > 1 else said

    def _lost(self, each: PlacementCandidate, best: PlacementCandidate) -> str:
        device = self._device(each)
        if (
            each.lack != Lack.ROOM
            or each.room >= each.need
            or device is None
            or " left, " not in each.unfit
        ):
            return candidates.why_not(each, best, self._model.spec.policy)
        held = self._holders.of(each)
        if len(each.devices) > 1:
            listed = "".join(
                f", {replica} has {memory.text(size)}" for size, replica in held[:SHOWN]
            )
            return f"{each.unfit}{listed}"
        whole = usable(device)
        sizes = [size for size, _ in held[:SHOWN]]
        left = max(each.room, 0)
        *texts, rest = memory.shares(whole, left, *sizes)
        describe = [
            f"{replica} has {text}" for (_, replica), text in zip(held, texts[1:], strict=False)
        ]
        if whole - left - sum(sizes) > memory.GIB // 4:
            describe.append(f"others have {rest}")
        who = f": {', '.join(describe)}" if describe else ""
        return (
            f"{texts[0]} are left of the {memory.text(whole)} that replicas may have of it{who}; "
            f"needed: {self._needed(each)}"
        )
