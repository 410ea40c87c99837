"""What-if: decides the same requests again under other conditions, and compares placements. Pure.

Every event from outside is folded again, changed as the conditions say; every decision is made
again. Engines follow plans at once, because it is unknown how they would have behaved elsewhere.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias, get_args

from msgspec import Struct

from nebula.actors.placement.decision import decide
from nebula.events import memory, subjects
from nebula.events.evolve import evolve
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.record import Record, supposed
from nebula.events.state import EMPTY, Model, State
from nebula.events.values import Device, Policy
from nebula.events.vocabulary import (
    Event,
    ModelMeasured,
    NodeDeregistered,
    NodeHeard,
    NodeRegistered,
    NodeStopped,
    Observed,
)
from nebula.history.replay import Replay

ROUNDS = 10_000
"""Decisions in a row after which the result is taken as unstable."""

# Aliases use names, and a load request may be rejected because of a name.
_FROM_OUTSIDE = (
    ModelLoadRequested
    | ModelScaleRequested
    | ModelRebalanceRequested
    | ModelUnloadRequested
    | AdapterLoadRequested
    | AdapterUnloadRequested
    | AliasRequested
    | AliasRemoveRequested
    | NodeRegistered
    | NodeDrainRequested
    | NodeUndrainRequested
    | ModelMeasured
    | NodeDeregistered
    | NodeStopped
    | NodeHeard
    | Observed
)


class BadCondition(ValueError):
    """The text is not a condition; the message says how to write one."""


class With(Struct, frozen=True):
    """As if a node with devices of these sizes, in bytes, had been there from the beginning."""

    node: str
    devices: tuple[int, ...]


class Without(Struct, frozen=True):
    """As if a node had never existed."""

    node: str


class Under(Struct, frozen=True):
    """As if every load request had named this policy."""

    policy: Policy


Condition: TypeAlias = With | Without | Under


class Outcome(Struct, frozen=True):
    """Where a model's replicas are, and where they would be: `n1/gpu0` for each. `missing` too."""

    model: str
    actual: tuple[str, ...]
    otherwise: tuple[str, ...]
    missing: int
    otherwise_missing: int

    @property
    def differs(self) -> bool:
        """Whether the conditions make a difference for this model."""
        return (self.actual, self.missing) != (self.otherwise, self.otherwise_missing)


def parse(text: str) -> Condition:
    """Read `policy=binpack`, `without n3` or `with n4:80GiB,80GiB`. Raise BadCondition."""
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    policy = re.fullmatch(r"policy\s*=\s*(\S+)", text.strip())
    if policy is not None:
        for known in get_args(Policy):
            if known == policy[1]:
                return Under(known)
        raise BadCondition(f"there is no policy {policy[1]!r}: take spread or binpack")
    if word == "without" and subjects.is_token(rest):
        return Without(rest)
    if word == "with":
        node, _, sizes = rest.partition(":")
        try:
            devices = tuple(memory.parse(size) for size in sizes.split(","))
        except ValueError as error:
            raise BadCondition(f"{text!r}: {error}") from error
        if subjects.is_token(node):
            return With(node, devices)
    raise BadCondition(
        f"{text!r} is not a condition: write policy=binpack, 'without n3' or 'with n4:80GiB'"
    )


class WhatIf:
    """Folds a log as it was, and in parallel as it would have been."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self.actual = Replay(check=False)
        self.otherwise: State = EMPTY
        self._absent = {each.node for each in conditions if isinstance(each, Without)}
        self._policy: Policy | None = next(
            (each.policy for each in conditions if isinstance(each, Under)), None
        )
        self._seen: set[str] = set()
        self._given = [each for each in conditions if isinstance(each, With)]
        for each in self._given:
            devices = tuple(
                Device(index, "gpu", "imagined", size) for index, size in enumerate(each.devices)
            )
            self._append(each.node, NodeRegistered(devices), 0)

    def take(self, entry: Record) -> None:
        """Fold one more record. Raise BadLog."""
        self.actual.take(entry)
        event = entry.content
        if not isinstance(event, _FROM_OUTSIDE):
            return
        if isinstance(event, NodeRegistered):
            self._seen.add(entry.id)
        if entry.aggregate == "node" and (
            entry.id in self._absent or entry.id in {each.node for each in self._given}
        ):
            return
        self._append(entry.id, event, entry.time, entry.node)
        for _ in range(ROUNDS):
            decisions = decide(self.otherwise, self._policy)
            if not decisions:
                break
            for each in decisions:
                self._append(each.id, each.event, entry.time)

    def _append(self, identity: str, event: Event, time: int, node: str = "") -> None:
        seq = self.otherwise.seq + 1
        self.otherwise = evolve(self.otherwise, supposed(seq, time, identity, event, node))

    def check(self) -> None:
        """Check that every node that is to be absent was there. Raise BadCondition."""
        for node in sorted(self._absent - self._seen):
            there = ", ".join(sorted(self._seen)) or "none"
            raise BadCondition(f"without {node}: the log has no such node; there were: {there}")

    def outcomes(self) -> list[Outcome]:
        """Compare where every model is with where it would be."""
        there, here = self.actual.state, self.otherwise
        return [
            Outcome(
                identity,
                _places(there, there.models.get(identity)),
                _places(here, here.models.get(identity)),
                _missing(there.models.get(identity)),
                _missing(here.models.get(identity)),
            )
            for identity in sorted({*there.models, *here.models})
        ]


def _places(state: State, model: Model | None) -> tuple[str, ...]:
    if model is None:
        return ()
    return tuple(
        sorted(
            f"{each.node}/{_kind(state, each.node, index)}{index}"
            for each in model.assignments
            for index in each.devices
        )
    )


def _kind(state: State, node: str, index: int) -> str:
    known = state.nodes.get(node)
    devices = known.devices if known is not None else ()
    return next((each.kind for each in devices if each.index == index), "")


def _missing(model: Model | None) -> int:
    if model is None or model.unloading:
        return 0
    return max(0, model.wanted - len(model.assignments))  # while it changes it has one replica more
