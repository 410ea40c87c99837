"""The rows of the console's tables: short, so that a page of them stays small. Pure."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from nebula.actors.placement.candidates import PlacementCandidate
from nebula.actors.placement.sizing import usable
from nebula.events.heartbeats import QueueLength
from nebula.events.model_status import model_status
from nebula.events.showing import shown
from nebula.events.state import Model, Node, State
from nebula.history.attention import healthy

LONGEST = 200
"""Characters of a sentence in a row."""

NAMED = 4
"""Nodes that a row names, at most."""


class ModelRow(Struct, frozen=True):
    """A model in a table.

    `aliases`: each with its share, as `prod 90/100`. `waiting`: how many requests are in its line.
    """

    id: str
    name: str
    task: str
    source: str
    phase: str
    ready: int
    wanted: int
    detail: str
    adapters: tuple[str, ...]
    aliases: tuple[str, ...]
    nodes: tuple[str, ...]
    more_nodes: int
    waiting: int = 0


class Held(Struct, frozen=True):
    """Memory of a device that was promised to a replica; `weights` of it are for weights."""

    replica: str
    phase: str
    memory: int
    weights: int


class DeviceRow(Struct, frozen=True):
    """A device: `usable` bytes of its `memory` may be promised to replicas."""

    index: int
    kind: str
    name: str
    memory: int
    usable: int
    held: tuple[Held, ...]


class NodeRow(Struct, frozen=True):
    """A node in a table. `fetching`: sources of which it fetches files."""

    id: str
    state: str
    host: str
    since: int
    seq: int
    labels: dict[str, str]
    nebula_version: str
    engine_version: str
    devices: tuple[DeviceRow, ...]
    replicas: int
    serving: int
    fetching: tuple[str, ...]


class PlaceRow(Struct, frozen=True):
    """A place for one more replica of a model; `unfit` says why it can't be taken, "" if it can."""

    name: str
    node: str
    need: int
    room: int
    holds: bool
    same: int
    unfit: str


def shares(state: State) -> dict[str, list[str]]:
    """Return the aliases of each model, with the share that it gets of their requests."""
    found: dict[str, list[str]] = {}
    for alias in sorted(state.aliases.values(), key=lambda each: each.name):
        whole = sum(target.weight for target in alias.targets)
        for target in alias.targets:
            binding = state.names.get(target.model)
            if binding is not None:
                share = f" {target.weight}/{whole}" if len(alias.targets) > 1 else ""
                found.setdefault(binding.model, []).append(f"{alias.name}{share}")
    return found


def phase_of(state: State, model: Model) -> str:
    """Return the phase of a model."""
    return healthy(state, model) or model_status(state, model).phase


def model_row(
    state: State,
    model: Model,
    aliases: Mapping[str, list[str]],
    now: int | None,
    line: QueueLength | None = None,
) -> ModelRow:
    """Return the row of a model."""
    stands = model_status(state, model, now)
    nodes = sorted({each.node for each in model.assignments})
    row = ModelRow(
        model.id,
        model.name,
        model.task,
        model.spec.source,
        stands.phase,
        stands.ready,
        stands.wanted,
        cut(stands.detail),
        tuple(sorted(model.adapters)[:NAMED]),
        tuple(aliases.get(model.id, ())[:NAMED]),
        tuple(nodes[:NAMED]),
        max(0, len(nodes) - NAMED),
        line.waiting if line is not None else 0,
    )
    return shown(row)


def node_row(state: State, node: Node) -> NodeRow:
    """Return the row of a node."""
    occupancy = state.occupancy.get(node.id)
    here = sorted(occupancy.replicas) if occupancy is not None else []
    replicas = [state.replicas[each] for each in here]
    row = NodeRow(
        node.id,
        node.closed or ("suspected" if node.suspected else "ready"),
        node.host,
        node.since,
        node.changed,
        node.labels,
        node.nebula_version,
        node.engine_version,
        tuple(_devices(state, node, here)),
        len(here),
        sum(each.serving for each in replicas),
        tuple(
            source
            for source, held in sorted(node.weights.items())
            if not held.whole and (held.total or held.waits)
        ),
    )
    return shown(row)


def _devices(state: State, node: Node, here: Iterable[str]) -> Iterable[DeviceRow]:
    for device in node.devices:
        held = []
        for identity in here:
            replica = state.replicas[identity]
            if device.index not in replica.devices or not replica.memory:
                continue
            model = state.models.get(replica.model)
            measured = model.measured if model is not None else None
            weights = measured.weights // len(replica.devices) if measured is not None else 0
            phase = "retired" if replica.retired else replica.phase
            held.append(Held(identity, phase, replica.memory, min(weights, replica.memory)))
        yield DeviceRow(
            device.index, device.kind, device.name, device.memory, usable(device), tuple(held)
        )


def place_row(place: PlacementCandidate) -> PlaceRow:
    """Return the row of a place."""
    return PlaceRow(
        place.name, place.node, place.need, place.room, place.holds, place.same, place.unfit
    )


def cut(text: str) -> str:
    """Return a text that is short enough for a row."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
