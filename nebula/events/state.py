"""What the cluster is at one moment: the aggregates that fold from the log, and nothing else.

Everything here is immutable. The maps are persistent ones, so that a state shares with the state
before it all that did not change, and keeping an old one costs next to nothing.
"""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.events.intents import ModelLoadRequested
from nebula.events.values import Assignment, Device, OptionValue, Target, Task

Phase: TypeAlias = Literal["assigned", "starting", "ready", "failed", "stopped"]


class Engine(Struct, frozen=True, gc=False):
    """A spawned engine process, as its node reported it. `version` is the plan's it runs for.

    `birth` tells its process from every other of the same `pid`; "" where it was not told.

    `engine_version` is what it says of itself, `installed` what its node would have started then.
    `stalled`: since when (ns) it stands still, with so many `stuck` requests; 0 while it does not.
    `ends`: when (ns) its node ends it, should that last; 0 where it never does.
    """

    pid: int
    created: float
    port: int
    log_file: str
    version: int
    started: int
    engine_version: str = ""
    installed: str = ""
    birth: str = ""
    stalled: int = 0
    stuck: int = 0
    ends: int = 0


class AdapterStatus(Struct, frozen=True, gc=False):
    """Where one adapter stands on one replica; `reason` says why it is not loaded."""

    source: str
    loaded: bool
    reason: str = ""


class Launch(Struct, frozen=True, gc=False):
    """What an engine is started with: a change of any of it replaces the running engine."""

    source: str
    name: str
    task: Task
    lora: bool
    memory: int | str | None
    options: dict[str, OptionValue]
    env: dict[str, str]


class Replica(Struct, frozen=True, gc=False):
    """One engine's worth of a model, from its assignment until its engine is gone.

    `launch` is what its engine is started with, of the plan that last made it a new version.
    `memory`: the bytes that are its own of each device; none once it was given up for good.
    `retired` replicas are no longer wanted: they stay while their engine still ends.
    `changed` is the sequence and `since` the time (ns) of the last event about it.
    """

    id: str
    model: str
    node: str
    devices: tuple[int, ...]
    memory: int
    version: int
    phase: Phase = "assigned"
    retired: bool = False
    engine: Engine | None = None
    attempt: int = 0
    reason: str = ""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    retry_in: float | None = None
    adapters: dict[str, AdapterStatus] = {}
    changed: int = 0
    since: int = 0
    launch: Launch | None = None

    @property
    def serving(self) -> bool:
        """Whether requests may be sent to it: ready, still wanted, and as the plan wants it."""
        return (
            self.phase == "ready"
            and not self.retired
            and self.engine is not None
            and self.engine.version == self.version
        )

    @property
    def given_up(self) -> bool:
        """Whether its node has stopped trying to start it."""
        return self.phase == "failed" and self.retry_in is None


class Measured(Struct, frozen=True, gc=False):
    """What a node told of a source's files: bytes of its weights, and of the cache for a token.

    `context`: tokens that a request may have. All 0 where it could not be told.
    """

    source: str
    weights: int
    cache_per_token: int
    context: int
    reason: str = ""


class Model(Struct, frozen=True, gc=False):
    """One model that somebody asked for.

    `spec` is what is wanted, `launch` and `assignments` what the last plan made of it.
    `intent` is the sequence of the last event that wants a (new) plan, `answered` the last of
    those that got one: a model with `intent > answered` waits for a router's decision.
    `created` is the time (ns) of its first load request.
    `asleep`: no replicas until a request comes. `scaled`: how many the load last called for.
    `proven` is the last spec with which every replica got ready; `rolled_back` says why the spec
    after it was given up. `moving`: replicas that somebody wants elsewhere.
    """

    id: str
    name: str
    spec: ModelLoadRequested
    adapters: dict[str, str]
    intent: int
    answered: int = 0
    version: int = 0
    launch: Launch | None = None
    assignments: tuple[Assignment, ...] = ()
    replicas: tuple[str, ...] = ()
    unschedulable: str = ""
    missing: int = 0
    unloading: bool = False
    changed: int = 0
    created: int = 0
    asleep: bool = False
    scaled: int | None = None
    measured: Measured | None = None
    proven: ModelLoadRequested | None = None
    rolled_back: str = ""
    moving: tuple[str, ...] = ()

    @property
    def wanted(self) -> int:
        """How many replicas it should have now."""
        if self.asleep or self.unloading:
            return 0
        auto = self.spec.autoscale
        if auto is None:
            return self.spec.replicas
        called = self.spec.replicas if self.scaled is None else self.scaled
        return min(max(called, auto.least), auto.most)

    @property
    def task(self) -> Task:
        """What it does: chat or embedding."""
        return self.spec.task

    @property
    def lora(self) -> bool:
        """Whether its engines take adapters."""
        return self.spec.lora if self.spec.lora is not None else bool(self.spec.adapters)


class Held(Struct, frozen=True, gc=False):
    """A source's files on a node: `done` of `total` bytes, all of them once it is `whole`.

    `fetched`: the node itself fetched them; others were on its disk before.
    """

    done: int = 0
    total: int = 0
    whole: bool = False
    pinned: bool = False
    removing: bool = False
    reason: str = ""
    retry_in: float | None = None
    fetched: bool = False


class Node(Struct, frozen=True, gc=False):
    """A machine that offers devices. A `lost` or `draining` one gets no new replicas.

    `weights`: the files that it holds or fetches, by their source. `registered`: the sequence of
    its last registration. `suspected`: the sequence of the suspicion that nobody has answered yet.
    `doubts`: how often it was lost, or suspected in vain, in a row; the last time (ns) `doubted`.
    """

    id: str
    devices: tuple[Device, ...]
    host: str = ""
    labels: dict[str, str] = {}
    nebula_version: str = ""
    draining: bool = False
    lost: bool = False
    changed: int = 0
    since: int = 0
    engine_version: str = ""
    measures: bool = False
    weights: dict[str, Held] = {}
    registered: int = 0
    suspected: int = 0
    doubts: int = 0
    doubted: int = 0
    reads: int = 0

    @property
    def schedulable(self) -> bool:
        """Whether new replicas may be placed here."""
        return not (self.draining or self.lost)


class Cluster(Struct, frozen=True, gc=False):
    """Which cluster the log is of, and by which version it goes; no id: none was founded yet."""

    id: str = ""
    name: str = ""
    version: int = 0
    changed: int = 0


class Rejection(Struct, frozen=True, gc=False):
    """An entry that was not acted upon and has not been answered by `EventRejected` yet."""

    seq: int
    subject: str
    reason: str


class Alias(Struct, frozen=True, gc=False):
    """A name that stands for other models: its targets, and who gets a copy of each request."""

    id: str
    name: str
    targets: tuple[Target, ...]
    mirror: str = ""
    changed: int = 0


class Named(Struct, frozen=True, gc=False):
    """What a public name stands for: a model, one of its adapters, or else an alias's id."""

    model: str
    adapter: str = ""
    alias: str = ""


class Occupancy(Struct, frozen=True, gc=False):
    """What replicas hold of a node: their ids, and the bytes that are theirs of each device.

    A retired one holds its share until its engine is gone.
    """

    replicas: frozenset[str] = frozenset()
    used: dict[int, int] = {}


class State(Struct, frozen=True, gc=False):
    """The cluster after the event at `seq`.

    `models_seq` is the last sequence on any model's subjects, `nodes_seq` on any node's: the guards
    under which decisions are appended. `capacity_seq` is the last event that may have made room for
    more replicas.

    The last three follow from the others. `occupancy`: what replicas hold of each node. `apart`:
    the models that want no node together with the one whose id is the key. `unsettled`: the
    models that may call for a decision; no other one does.
    """

    seq: int = 0
    time: int = 0
    models_seq: int = 0
    nodes_seq: int = 0
    capacity_seq: int = 0
    models: HashTrieMap[str, Model] = HashTrieMap()
    replicas: HashTrieMap[str, Replica] = HashTrieMap()
    nodes: HashTrieMap[str, Node] = HashTrieMap()
    aliases: HashTrieMap[str, Alias] = HashTrieMap()
    names: HashTrieMap[str, Named] = HashTrieMap()
    rejections: HashTrieMap[int, Rejection] = HashTrieMap()
    cluster: Cluster = Cluster()
    occupancy: HashTrieMap[str, Occupancy] = HashTrieMap()
    apart: HashTrieMap[str, frozenset[str]] = HashTrieMap()
    unsettled: HashTrieSet[str] = HashTrieSet()

    def replicas_of(self, model: Model) -> Iterator[Replica]:
        """Give a model's replicas, retired ones too, in the order of their numbers."""
        for identity in model.replicas:
            replica = self.replicas.get(identity)
            if replica is not None:
                yield replica


EMPTY = State()


def replica_id(model: str, number: int) -> str:
    """Name a model's replica: `chat-0`."""
    return f"{model}-{number}"


def proven_spec(model: Model) -> ModelLoadRequested | None:
    """Give what would be wanted after a rollback: what worked, as often as is wanted now."""
    if model.proven is None:
        return None
    spec = model.spec
    return replace(
        model.proven, replicas=spec.replicas, autoscale=spec.autoscale, adapters=spec.adapters
    )


def launch_of(model: Model) -> Launch:
    """Give what the model's engines should be started with now.

    Where that is as in the last plan it is the very object, which is quick to compare.
    """
    spec = model.spec
    launch = Launch(
        spec.source, model.name, spec.task, model.lora, spec.memory, spec.options, spec.env
    )
    return model.launch if model.launch is not None and model.launch == launch else launch
