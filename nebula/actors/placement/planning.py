"""The plan of one model: which replicas stay, which are replaced, and where new ones go. Pure.

A replica is *stale* if its engine must be started differently or may not stay where it is. A
serving stale replica is replaced by surge: it is dropped once its successor is ready. If there is
no room for both, its engine is restarted in place, one replica at a time.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from nebula.actors.placement.candidates import (
    PlacementCandidate,
    best,
    shortage,
    weigh,
)
from nebula.actors.placement.capacity import Capacity, Place, promised_beside
from nebula.actors.placement.requirements import Requirements
from nebula.actors.placement.sizing import device_at, usable
from nebula.events import drift, sources
from nebula.events.state import Model, Replica, State, launch_of, replica_id
from nebula.events.values import Assignment, Policy


class Choice(Struct, frozen=True):
    """The choice of a place for one new replica: every candidate, the best first."""

    replica: str
    candidates: tuple[PlacementCandidate, ...]


class Plan(Struct, frozen=True):
    """A plan of a model's replicas. `evicted` replicas lose their place.

    `missing` replicas can't be as wanted because of the `reason`. `choices` are filled in only on
    request.
    """

    assignments: tuple[Assignment, ...]
    reason: str = ""
    missing: int = 0
    kept: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()


def plan(
    state: State,
    model: Model,
    policy: Policy | None = None,
    *,
    capacity: Capacity | None = None,
    tell: bool = False,
) -> Plan:
    """Return a plan of a model's replicas in `state`. `tell`: with all candidates of each choice.

    Replicas that their nodes gave up are tried again after a new request for the model.
    """
    draft = _Draft(state, model, policy, capacity or Capacity(), tell)
    draft.sort()
    draft.trim()
    draft.add()
    draft.renew_in_place()
    return draft.plan()


class _Draft:
    """A plan in the making.

    `fresh` replicas are up to date; `old` ones are stale and serve; `idle` ones are stale, may not
    stay where they are, and do not serve. `delta`: by how much assigned bytes differ from the
    state.
    """

    def __init__(
        self, state: State, model: Model, policy: Policy | None, capacity: Capacity, tell: bool
    ) -> None:
        self.state = state
        self.model = model
        self.required = Requirements(state, model, policy)
        self.rooms = capacity.of(state)
        self.twins = capacity.twins
        self.full = capacity.full
        self.tell = tell
        self.launch = launch_of(model)
        self.version = model.version + 1
        self.wanted = model.wanted
        self.due = model.requested_seq > model.planned_seq
        self.fresh: list[Assignment] = []
        self.old: list[Assignment] = []
        self.idle: list[Assignment] = []
        self.delta: dict[Place, int] = {}
        self.gone: dict[Place, int] = {}
        self.choices: list[Choice] = []
        self.reason = ""
        self.stuck = False

    def sort(self) -> None:
        """Decide for every planned replica whether it stays."""
        for place in sorted(self.model.assignments, key=number):
            replica = self.state.replicas.get(place.replica)
            if replica is None:
                continue
            if not stands(self.state, place) or self._overfull(place):
                self._drop(place)
                continue
            away = drift.misplaced(self.state, self.model, replica)
            again = bool(drift.outdated(self.state, replica, self.launch))
            again = again or (self.due and replica.given_up)
            if not again and not away:
                self.fresh.append(place)
            elif replica.serving:
                self.old.append(place)
            elif not away and (renewed := self._renewed(place)) is not None:
                self.fresh.append(renewed)
            elif again or replica.given_up or self._lacks(replica):
                self._drop(place)
            else:
                self.idle.append(place)

    def _lacks(self, replica: Replica) -> bool:
        """Return whether its engine can't start where it is because the folder is missing."""
        node = self.state.nodes.get(replica.node)
        return node is not None and bool(sources.lacks(node, self.model.spec.source))

    def trim(self) -> None:
        """Keep as many as wanted, and stale ones only until a successor serves."""
        self.fresh = self._keep(self.fresh, self.wanted)
        succeeded = sum(self._serves(place) for place in self.fresh)
        self.old = self._keep(self.old, max(0, self.wanted - succeeded))
        self.idle = self._keep(self.idle, max(0, self.wanted - len(self.fresh) - len(self.old)))

    def _keep(self, places: list[Assignment], count: int) -> list[Assignment]:
        """Keep the best of them: those that may stay first, then serving ones, then low numbers."""
        ordered = sorted(places, key=self._worth)
        for place in ordered[count:]:
            self._drop(place)
        return sorted(ordered[:count], key=number)

    def _worth(self, place: Assignment) -> tuple[bool, bool, bool, int]:
        replica = self.state.replicas[place.replica]
        away = bool(drift.misplaced(self.state, self.model, replica))
        gave_up = replica.given_up and replica.version == place.version
        return gave_up, away, not self._serves(place), number(place)

    def add(self) -> None:
        """Choose places for missing replicas, and for successors of serving stale ones."""
        numbers = self._free_numbers()
        limit = self.wanted + bool(self.old)
        while len(self.fresh) < self.wanted and len(self.fresh) + len(self.old) < limit:
            replica = replica_id(self.model.id, next(numbers))
            found = self._choose(replica)
            if found is None:
                break
            place = Assignment(replica, found.node, found.devices, found.need, self.version)
            self.fresh.append(place)
            self._promise(place, place.memory)
        left = max(0, self.wanted - len(self.fresh) - len(self.old))
        self.idle = self._keep(self.idle, left)

    def _choose(self, replica: str) -> PlacementCandidate | None:
        alike = (
            self.required.kind if not (self.tell or self.delta or self.required.exclusive) else None
        )
        if alike in self.full:
            self.reason = self.full[alike]
            return None
        same: dict[str, int] = {}
        for place in (*self.fresh, *self.old):
            same[place.node] = same.get(place.node, 0) + 1
        found = best(self.rooms, self.required, same, self.delta)
        if self.tell:
            candidates = weigh(self.rooms, self.required, same, self.delta)
            self.choices.append(Choice(replica, tuple(candidates)))
        if found is None:
            self.reason = shortage(self.rooms, self.required, same, self.delta)
            if alike is not None:
                self.full[alike] = self.reason
        return found

    def renew_in_place(self) -> None:
        """If there is no other place, restart one stale replica's engine in its own place.

        This waits while another replica starts, or while a dropped one that makes room is ending.
        """
        if not self.reason or not self.old:
            return
        serving = len(self.fresh) + len(self.old)
        if any(not self._serves(place) for place in self.fresh) or self._ending():
            self.stuck = serving < self.wanted
            return
        for place in self.old:
            replica = self.state.replicas[place.replica]
            if drift.misplaced(self.state, self.model, replica):
                continue
            renewed = self._renewed(place)
            if renewed is not None:
                self.old.remove(place)
                self.fresh.append(renewed)
                self.stuck = serving < self.wanted
                return
        self.stuck = True

    def _ending(self) -> bool:
        """Return whether an engine is ending, or will, on a node that will report it."""
        staying = {place.replica for place in (*self.fresh, *self.old, *self.idle)}
        for replica in self.state.replicas_of(self.model):
            node = self.state.nodes.get(replica.node)
            if replica.id not in staying and replica.engine and node is not None and not node.lost:
                return True
        return False

    def plan(self) -> Plan:
        """Return the plan."""
        places = sorted((*self.fresh, *self.old, *self.idle), key=number)
        kept = {place.replica for place in places} & {
            place.replica for place in self.model.assignments
        }
        missing = 0
        if self.reason and (self.stuck or not self.old):
            there = len(places) if len(places) < self.wanted else len(self.fresh) + self._awaited()
            missing = self.wanted - there
        return Plan(
            tuple(places),
            self._reason() if missing else "",
            missing,
            tuple(place.replica for place in places if place.replica in kept),
            tuple(each.replica for each in self.model.assignments if each.replica not in kept),
            tuple(self.choices),
        )

    def _awaited(self) -> int:
        """Return how many replicas wait for a stopped node because they fit nowhere else.

        A stopped node returns with its engines, so these replicas do not count as missing.
        """
        return sum(self.state.nodes[place.node].stopped for place in self.idle)

    def _reason(self) -> str:
        """Return the reason; if no replica is missing, it names one that can't be replaced."""
        staying = [*self.old, *self.idle]
        if not staying or len(self.fresh) + len(staying) < self.wanted:
            return self.reason
        first = self.state.replicas[staying[0].replica]
        why = drift.stale(self.state, self.model, first, self.launch)
        return f"{first.id} can't be replaced, though {why}: {self.reason}"

    def _serves(self, place: Assignment) -> bool:
        replica = self.state.replicas.get(place.replica)
        return replica is not None and replica.serving and replica.version == place.version

    def _renewed(self, place: Assignment) -> Assignment | None:
        """Return a place with the newest version and need; None if it does not fit there."""
        node = self.state.nodes[place.node]
        devices = [device_at(node, each) for each in place.devices]
        if len(place.devices) != self.required.count:
            return None
        share = max([self.required.need(device) for device in devices if device is not None])
        more = share - self.state.replicas[place.replica].memory
        for device in devices:
            at = (node.id, device.index) if device is not None else (node.id, -1)
            beside = promised_beside(self.state.occupancy, self.twins.get(at, ()))
            if device is None or self._promised(at) + beside + more > usable(device):
                return None
        self._promise(place, more)
        return Assignment(place.replica, place.node, place.devices, share, self.version)

    def _promise(self, place: Assignment, size: int) -> None:
        """Count the assigned bytes of a place's devices, on all nodes that offer them."""
        _count(self.delta, place.node, place.devices, size)
        for device in place.devices:
            for node, there in self.twins.get((place.node, device), ()):
                _count(self.delta, node, (there,), size)

    def _promised(self, place: Place) -> int:
        held = self.state.occupancy.get(place[0])
        used = held.used.get(place[1], 0) if held is not None else 0
        return used + self.delta.get(place, 0)

    def _drop(self, place: Assignment) -> None:
        """Release a place. Its memory is free at once only if no engine must end there."""
        replica = self.state.replicas[place.replica]
        if replica.engine is None:
            self._promise(place, -replica.memory)
        else:
            self._promise(place, replica.memory - place.memory)
            _count(self.gone, place.node, place.devices, replica.memory)

    def _overfull(self, place: Assignment) -> bool:
        """Return whether its devices have too little memory; what engines that end have counts not.

        Otherwise one replica too many would make all others go, one with each plan.
        """
        for each in place.devices:
            device = device_at(self.state.nodes[place.node], each)
            at = (place.node, each)
            if device is None:
                return True
            more = self._promised(at) - self.gone.get(at, 0) - usable(device)
            if more > 0 and more > self._retired(at):
                return True
        return False

    def _retired(self, at: Place) -> int:
        """Return the bytes of a device that retired replicas still have."""
        held = self.state.occupancy.get(at[0])
        found = [self.state.replicas[each] for each in held.replicas] if held is not None else []
        return sum(each.memory for each in found if each.retired and at[1] in each.devices)

    def _free_numbers(self) -> Iterator[int]:
        """Return the next free number; a replica that moves gets a new number too.

        The engine of the old number may still run, or be starting, elsewhere.
        """
        taken = set(self.model.replicas)
        each = 0
        while True:
            if replica_id(self.model.id, each) not in taken:
                yield each
            each += 1


def _count(sums: dict[Place, int], node: str, devices: Iterable[int], size: int) -> None:
    if not size:
        return
    for device in devices:
        sums[node, device] = sums.get((node, device), 0) + size


def number(place: Assignment) -> int:
    """Return a replica's number."""
    return int(place.replica.rpartition("-")[2])


def stands(state: State, place: Assignment) -> bool:
    """Return whether a place still exists and can be kept."""
    return drift.housed(state, place)
