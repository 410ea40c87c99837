"""What would have no place if a node were lost: the loss is decided on a copy of the state. Pure.

The copy gets `NodeLost` and then every decision that a router would make, by the same `Decider`.
Only models with a replica on the node are decided again: no other model can gain room from a loss,
unless the node shares a device with another one. Then all models are decided again.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.actors.placement.capacity import Capacity, NodeCapacity
from nebula.actors.placement.decision import Decider, Decision
from nebula.actors.placement.requirements import Requirements
from nebula.events.drift import unsuited
from nebula.events.evolve import evolve
from nebula.events.index import models_on
from nebula.events.intents import ModelLoadRequested
from nebula.events.record import supposed
from nebula.events.sources import lacks
from nebula.events.state import Model, State
from nebula.events.vocabulary import Event, EventRejected, NodeLost

T = TypeVar("T")

ROUNDS = 100_000
"""Decisions in a row after which a state is taken as it is; no known state needs so many."""


class Displaced(Struct, frozen=True, kw_only=True):
    """What the loss of a node would mean for one model.

    `replicas` are those that it has there, `places` where new ones would go: `n2/gpu0`. `serves`:
    how many replicas elsewhere serve meanwhile. `missing` replicas would have no place, for
    `reason`: each needs `need` bytes of a device, and the nearest place lacks `lacks` of them; 0 if
    no place suits for another reason. `adapters` and `aliases`: other names by which clients ask
    for the model.
    """

    model: str
    replicas: tuple[str, ...]
    places: tuple[str, ...] = ()
    serves: int = 0
    missing: int = 0
    need: int = 0
    lacks: int = 0
    reason: str = ""
    adapters: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class NodeLoss(Struct, frozen=True):
    """What the loss of a node would mean: `missing` replicas, of all `models`, without a place.

    `memory`: bytes of devices that these replicas need together.
    """

    node: str
    models: tuple[Displaced, ...] = ()
    missing: int = 0
    memory: int = 0


class Resilience:
    """Answers for each node of one state, in which decisions that are due are made first.

    `settle`: False if it is known that none is due.
    """

    def __init__(self, state: State, *, settle: bool = True) -> None:
        self._capacity = Capacity()
        settled = _run(_settled(state, self._capacity)) if settle else state
        self._rooms = tuple(
            sorted(self._capacity.of(settled).values(), key=lambda room: -room.most)
        )
        self._simple = not self._capacity.twins and all(
            not room.ranked or room.ranked[0] >= 0 for room in self._rooms
        )
        self._lacked = {
            source
            for node in settled.nodes.values()
            for source in node.weights
            if lacks(node, source)
        }
        self._sharing = {node for node, _ in self._capacity.twins}
        self._aliases = _aliases(settled)
        self.state = settled
        self.nodes = tuple(
            sorted(identity for identity, node in settled.nodes.items() if not node.away)
        )
        """The nodes that can be lost, in the order of their names."""

    def losses(self) -> Iterator[NodeLoss]:
        """Yield what the loss of each node would mean."""
        for node in self.nodes:
            yield self.loss(node)

    def loss(self, node: str) -> NodeLoss:
        """Return what the loss of one node would mean."""
        return _run(self.steps(node))

    def survives(self, node: str) -> bool:
        """Return whether it is certain, without deciding, that everything has a place elsewhere.

        A place for a replica takes at most one of the slots that are as large as the largest of all
        replicas needs. So each finds one if there are, where it may go, as many slots as replicas,
        in whatever order they are placed. For replicas on several devices nothing is certain.
        """
        state = self.state
        models = [state.models[identity] for identity in models_on(state, node)]
        if not models:
            return True
        if not self._simple or any(model.id in state.unsettled for model in models):
            return False
        wanted = [Requirements(state, model) for model in models]
        if any(each.count > 1 or each.apart for each in wanted):
            return False
        count = sum(place.node == node for model in models for place in model.assignments)
        sizes: dict[tuple[str, int], int] = {}
        bound = [each for each in wanted if each.exclusive or _bound(each.spec, self._lacked)]
        free = next((each for each in wanted if each not in bound), None)
        return all(
            self._has_slots(count, each, wanted, node, sizes)
            for each in (*bound, *([free] if free is not None else []))
        )

    def _has_slots(
        self,
        count: int,
        required: Requirements,
        wanted: Sequence[Requirements],
        lost: str,
        sizes: dict[tuple[str, int], int],
    ) -> bool:
        """Return whether one model may go to so many slots, each large enough for all `wanted`.

        `sizes`: how large a slot is on devices of each kind and size, as far as it is known.
        """
        spec, left = required.spec, count
        own = (
            {each.node for each in self.state.replicas_of(required.model)}
            if required.exclusive
            else set()
        )
        for room in self._rooms:
            node = room.node
            if node.closed or node.id == lost or node.id in own:
                continue
            if unsuited(spec, node) or lacks(node, spec.source):
                continue
            for free, device in zip(room.free, room.devices, strict=True):
                if spec.devices and device.index not in spec.devices:
                    continue
                shape = (device.kind, device.memory)
                if shape not in sizes:
                    sizes[shape] = max(1, *(each.need(device) for each in wanted))
                left -= free // sizes[shape]
            if left <= 0:
                return True
        return False

    def steps(self, node: str) -> Generator[None, None, NodeLoss]:
        """As `loss`, but other work may be done after each decision."""
        before = self.state
        affected = models_on(before, node)
        if not affected:
            return NodeLoss(node)
        if node in self._sharing:
            affected = affected | set(before.unsettled)
        lost = _fold(before, node, NodeLost())
        due = HashTrieSet([each for each in affected if each in lost.unsettled])
        capacity = self._capacity.branch()
        capacity.step(lost, (node,))
        after = yield from _settled(replace(lost, unsettled=due), capacity)
        rooms = capacity.of(after)
        models: list[Displaced] = []
        for identity in sorted(affected):
            found = self._displaced(node, after, rooms, identity)
            if found is not None:
                models.append(found)
                yield
        sizes = [_memory(after, each) for each in models]
        return NodeLoss(node, tuple(models), sum(each.missing for each in models), sum(sizes))

    def _displaced(
        self, node: str, after: State, rooms: Mapping[str, NodeCapacity], identity: str
    ) -> Displaced | None:
        """Return what becomes of a model; None if it neither loses anything nor lacks more."""
        was, now = self.state.models[identity], after.models[identity]
        replicas = tuple([each.replica for each in was.assignments if each.node == node])
        missing = max(0, _missing(now) - _missing(was))
        if not replicas and not missing:
            return None
        known = {each.replica for each in was.assignments}
        names = (was.name, *was.adapters)
        places = [
            f"{each.node}/{_devices(after, each.node, each.devices)}"
            for each in now.assignments
            if each.replica not in known
        ]
        need, short = _shortage(after, now, rooms) if missing else (0, 0)
        return Displaced(
            model=identity,
            replicas=replicas,
            places=tuple(places),
            serves=sum(each.serving and each.node != node for each in self.state.replicas_of(was)),
            missing=missing,
            need=need,
            lacks=short,
            reason=now.unschedulable if missing else "",
            adapters=tuple(sorted(was.adapters)),
            aliases=tuple(
                sorted(frozenset[str]().union(*(self._aliases.get(name, ()) for name in names)))
            ),
        )


def _run(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            found: T = ended.value
            return found


def _bound(spec: ModelLoadRequested, lacked: Set[str]) -> bool:
    """Return whether a load request may go to some nodes or devices only."""
    return bool(spec.node or spec.labels or spec.devices or spec.source in lacked)


def _settled(state: State, capacity: Capacity) -> Generator[None, None, State]:
    """Return the state after all decisions that follow from it, with `capacity` kept up to date."""
    decider = Decider(capacity=capacity)
    state = replace(state, rejections=HashTrieMap())
    for _ in range(ROUNDS):
        due = decider.decide(state)
        if not due or isinstance(due[0].event, EventRejected):
            break
        state = _follow(state, due[0], capacity)
        yield
    return state


def _follow(state: State, decision: Decision, capacity: Capacity) -> State:
    """Fold a decision about a model."""
    before = state.replicas_of(state.models[decision.id])
    touched = {each.node for each in before}
    state = _fold(state, decision.id, decision.event)
    model = state.models.get(decision.id)
    if model is not None:
        touched |= {each.node for each in model.assignments}
    capacity.step(state, sorted(touched))
    return state


def _fold(state: State, identity: str, event: Event) -> State:
    return evolve(state, supposed(state.seq + 1, state.time, identity, event))


def _missing(model: Model) -> int:
    return max(0, model.wanted - len(model.assignments))


def _devices(state: State, node: str, indexes: Sequence[int]) -> str:
    known = state.nodes.get(node)
    devices = known.devices if known is not None else ()
    kind = next((each.kind for each in devices if each.index in indexes), "")
    return kind + "+".join(map(str, indexes))


def _aliases(state: State) -> dict[str, set[str]]:
    """Return for each name that an alias stands for the names of such aliases."""
    found: dict[str, set[str]] = {}
    for alias in state.aliases.values():
        for target in alias.targets:
            found.setdefault(target.model, set()).add(alias.name)
    return found


def _shortage(state: State, model: Model, rooms: Mapping[str, NodeCapacity]) -> tuple[int, int]:
    """Return how much of a device a replica needs on the nearest place, and how much lacks there.

    The second is 0 if no node that suits would take replicas, or if memory is not what lacks.
    """
    required = Requirements(state, model)
    nearest: tuple[int, int] | None = None
    need = 0
    for room in rooms.values():
        node = room.node
        wrong = unsuited(model.spec, node) or lacks(node, model.spec.source)
        usable = [
            (free, device)
            for device, free in zip(room.devices, room.free, strict=True)
            if not model.spec.devices or device.index in model.spec.devices
        ]
        if not need and usable:
            need = required.need(usable[0][1])
        if wrong or node.closed or len(usable) < required.count:
            continue
        lacking = sorted((required.need(device) - free, device.index) for free, device in usable)
        short, index = lacking[required.count - 1]
        if short > 0 and (nearest is None or short < nearest[1]):
            device = next(each for _, each in usable if each.index == index)
            nearest = required.need(device), short
    return nearest or (need, 0)


def _memory(state: State, each: Displaced) -> int:
    """Return how many bytes of devices the replicas without a place need."""
    if not each.missing:
        return 0
    return each.missing * each.need * Requirements(state, state.models[each.model]).count
