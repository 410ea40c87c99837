"""The plan of one model: which replicas stay, which are replaced, and where new ones go. Pure.

A replica is *stale* when its engine is to be started otherwise or may not stay where it is. One
that serves is replaced by surge: first another is ready beside it, then it is dropped. Where
there is no room for two, its engine is started anew in its place, one replica at a time.
"""

from collections.abc import Iterator

from msgspec import Struct

from nebula.actors.placement.candidates import Candidate, Wish, best, shortage, weigh
from nebula.actors.placement.fleet import Fleet, Place
from nebula.actors.placement.sizing import device_at, usable
from nebula.events import index
from nebula.events.state import Model, State, launch_of, replica_id
from nebula.events.values import Assignment, Policy


class Choice(Struct, frozen=True):
    """Where one new replica goes: every candidate, the best first. It goes nowhere if none fits."""

    replica: str
    candidates: tuple[Candidate, ...]


class Plan(Struct, frozen=True):
    """What a model's replicas should be. `evicted` had a place that they don't keep.

    `missing` replicas are not as they are wanted, and can't be for the `reason`. `choices` are
    told only to whom asks for them.
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
    fleet: Fleet | None = None,
    tell: bool = False,
) -> Plan:
    """Plan a model's replicas as `state` calls for. `tell`: with all candidates of every choice.

    Replicas that their nodes gave up are tried again when somebody has asked for the model.
    """
    draft = _Draft(state, model, policy, fleet or Fleet(), tell)
    draft.sort()
    draft.trim()
    draft.add()
    draft.renew_in_place()
    return draft.plan()


class _Draft:
    """A plan in the making.

    `fresh` are as they are wanted now; `old` are stale and serve; `idle` are stale, may not stay
    where they are, and don't serve. `delta`: by how much promises differ from those of the state.
    """

    def __init__(
        self, state: State, model: Model, policy: Policy | None, fleet: Fleet, tell: bool
    ) -> None:
        self.state = state
        self.model = model
        self.wish = Wish(state, model, policy)
        self.rooms = fleet.of(state)
        self.full = fleet.full
        self.tell = tell
        self.launch = launch_of(model)
        self.version = model.version + 1
        self.wanted = model.wanted
        self.due = model.intent > model.answered
        self.fresh: list[Assignment] = []
        self.old: list[Assignment] = []
        self.idle: list[Assignment] = []
        self.delta: dict[Place, int] = {}
        self.gone: dict[Place, int] = {}
        self.choices: list[Choice] = []
        self.reason = ""
        self.stuck = False

    def sort(self) -> None:
        """See of every replica that is planned whether it stays."""
        for place in sorted(self.model.assignments, key=number):
            replica = self.state.replicas.get(place.replica)
            if replica is None:
                continue
            if not stands(self.state, place) or self._overfull(place):
                self._drop(place)
                continue
            away = index.misplaced(self.state, self.model, replica)
            again = bool(index.outdated(self.state, replica, self.launch))
            again = again or (self.due and replica.given_up)
            if not again and not away:
                self.fresh.append(place)
            elif replica.serving:
                self.old.append(place)
            elif not away and (renewed := self._renewed(place)) is not None:
                self.fresh.append(renewed)
            elif again or replica.given_up:
                self._drop(place)
            else:
                self.idle.append(place)

    def trim(self) -> None:
        """Keep as many as are wanted; of stale ones as many as have no successor that serves."""
        self.fresh = self._keep(self.fresh, self.wanted)
        succeeded = sum(self._serves(place) for place in self.fresh)
        self.old = self._keep(self.old, max(0, self.wanted - succeeded))
        self.idle = self._keep(self.idle, max(0, self.wanted - len(self.fresh) - len(self.old)))

    def _keep(self, places: list[Assignment], count: int) -> list[Assignment]:
        """Keep the best of them: those that may stay, that serve, that have the lowest numbers."""
        ordered = sorted(places, key=self._worth)
        for place in ordered[count:]:
            self._drop(place)
        return sorted(ordered[:count], key=number)

    def _worth(self, place: Assignment) -> tuple[bool, bool, bool, int]:
        replica = self.state.replicas[place.replica]
        away = bool(index.misplaced(self.state, self.model, replica))
        gave_up = replica.given_up and replica.version == place.version
        return gave_up, away, not self._serves(place), number(place)

    def add(self) -> None:
        """Choose places for what is missing, and for a successor where a stale replica serves."""
        numbers = self._free_numbers()
        limit = self.wanted + bool(self.old)
        while len(self.fresh) < self.wanted and len(self.fresh) + len(self.old) < limit:
            replica = replica_id(self.model.id, next(numbers))
            found = self._choose(replica)
            if found is None:
                break
            place = Assignment(replica, found.node, found.devices, found.need, self.version)
            self.fresh.append(place)
            _count(self.delta, place, place.memory)
        left = max(0, self.wanted - len(self.fresh) - len(self.old))
        self.idle = self._keep(self.idle, left)

    def _choose(self, replica: str) -> Candidate | None:
        alike = self.wish.kind if not (self.tell or self.delta or self.wish.hostile) else None
        if alike in self.full:
            self.reason = self.full[alike]
            return None
        same: dict[str, int] = {}
        for place in (*self.fresh, *self.old):
            same[place.node] = same.get(place.node, 0) + 1
        found = best(self.rooms, self.wish, same, self.delta)
        if self.tell:
            candidates = weigh(self.rooms, self.wish, same, self.delta)
            self.choices.append(Choice(replica, tuple(candidates)))
        if found is None:
            self.reason = shortage(self.rooms, self.wish, same, self.delta)
            if alike is not None:
                self.full[alike] = self.reason
        return found

    def renew_in_place(self) -> None:
        """Where no other place can be had, start one stale replica's engine anew in its own.

        Not while another starts, or while one that was dropped still ends: it makes room.
        """
        if not self.reason or not self.old:
            return
        serving = len(self.fresh) + len(self.old)
        if any(not self._serves(place) for place in self.fresh) or self._ending():
            self.stuck = serving < self.wanted
            return
        for place in self.old:
            replica = self.state.replicas[place.replica]
            if index.misplaced(self.state, self.model, replica):
                continue
            renewed = self._renewed(place)
            if renewed is not None:
                self.old.remove(place)
                self.fresh.append(renewed)
                self.stuck = serving < self.wanted
                return
        self.stuck = True

    def _ending(self) -> bool:
        """Say whether an engine ends, or is about to, on a node that will tell of it."""
        staying = {place.replica for place in (*self.fresh, *self.old, *self.idle)}
        for replica in self.state.replicas_of(self.model):
            node = self.state.nodes.get(replica.node)
            if replica.id not in staying and replica.engine and node is not None and not node.lost:
                return True
        return False

    def plan(self) -> Plan:
        """Give the plan."""
        places = sorted((*self.fresh, *self.old, *self.idle), key=number)
        kept = {place.replica for place in places} & {
            place.replica for place in self.model.assignments
        }
        missing = 0
        if self.reason and (self.stuck or not self.old):
            missing = self.wanted - (len(places) if len(places) < self.wanted else len(self.fresh))
        return Plan(
            tuple(places),
            self._reason() if missing else "",
            missing,
            tuple(place.replica for place in places if place.replica in kept),
            tuple(each.replica for each in self.model.assignments if each.replica not in kept),
            tuple(self.choices),
        )

    def _reason(self) -> str:
        """Begin with who can't be replaced, where no replica is missing altogether."""
        staying = [*self.old, *self.idle]
        if not staying or len(self.fresh) + len(staying) < self.wanted:
            return self.reason
        first = self.state.replicas[staying[0].replica]
        why = index.stale(self.state, self.model, first, self.launch)
        return f"{first.id} can't be replaced, though {why}: {self.reason}"

    def _serves(self, place: Assignment) -> bool:
        replica = self.state.replicas.get(place.replica)
        return replica is not None and replica.serving and replica.version == place.version

    def _renewed(self, place: Assignment) -> Assignment | None:
        """Give a place with the newest version and need; None where the need does not fit there."""
        node = self.state.nodes[place.node]
        devices = [device_at(node, each) for each in place.devices]
        if len(place.devices) != self.wish.count:
            return None
        share = max([self.wish.need(device) for device in devices if device is not None])
        more = share - self.state.replicas[place.replica].memory
        for device in devices:
            if device is None or self._promised((node.id, device.index)) + more > usable(device):
                return None
        _count(self.delta, place, more)
        return Assignment(place.replica, place.node, place.devices, share, self.version)

    def _promised(self, place: Place) -> int:
        held = self.state.occupancy.get(place[0])
        used = held.used.get(place[1], 0) if held is not None else 0
        return used + self.delta.get(place, 0)

    def _drop(self, place: Assignment) -> None:
        """Let go of a place. Its memory is free at once only where no engine is there to end."""
        replica = self.state.replicas[place.replica]
        if replica.engine is None:
            _count(self.delta, place, -replica.memory)
        else:
            _count(self.delta, place, replica.memory - place.memory)
            _count(self.gone, place, replica.memory)

    def _overfull(self, place: Assignment) -> bool:
        for each in place.devices:
            device = device_at(self.state.nodes[place.node], each)
            at = (place.node, each)
            if device is None or self._promised(at) - self.gone.get(at, 0) > usable(device):
                return True
        return False

    def _free_numbers(self) -> Iterator[int]:
        """Count up, passing over every replica there is: one that moves gets a new number too.

        Its engine may still run, or just be starting, elsewhere.
        """
        taken = set(self.model.replicas)
        each = 0
        while True:
            if replica_id(self.model.id, each) not in taken:
                yield each
            each += 1


def _count(sums: dict[Place, int], place: Assignment, size: int) -> None:
    if not size:
        return
    for device in place.devices:
        sums[place.node, device] = sums.get((place.node, device), 0) + size


def number(place: Assignment) -> int:
    """Give a replica's number."""
    return int(place.replica.rpartition("-")[2])


def stands(state: State, place: Assignment) -> bool:
    """Say whether a place can be kept: it is still there."""
    return index.housed(state, place)
