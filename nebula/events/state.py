"""The state of the cluster at one moment: the aggregates that fold from the log.

All is immutable. The maps are persistent: a state shares all unchanged parts with the previous one.
"""

from __future__ import annotations  # rpds maps take no [] at run time

from typing import Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.events.alias import Alias
from nebula.events.batch import Batch
from nebula.events.capture import Capture
from nebula.events.cluster import Cluster
from nebula.events.intents import ModelLoadRequested
from nebula.events.key import Key
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Assignment, Device, OptionValue, Task, Variable

Phase: TypeAlias = Literal["assigned", "starting", "ready", "failed", "stopped"]


class Engine(Struct, frozen=True, gc=False, kw_only=True):
    """A spawned engine process, as its node reported it. `version` is that of its plan.

    `birth` tells its process from other processes with the same `pid`; "" if unknown.

    `engine_version` is what the engine reports, `installed` what was installed on its node then.
    `stalled`: since when (ns) it makes no progress, with `stuck` requests; 0 while it does. `ends`:
    when (ns) its node ends it if it stays stalled; 0 for never. `killed`: the sequence of the
    request to kill it; 0 for none.
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
    killed: int = 0


class AdapterStatus(Struct, frozen=True, gc=False):
    """The state of one adapter on one replica.

    `loaded`: at least one version of it is loaded; `held` are the digests of loaded versions, as
    far as they are known. `source`, `digest` and `asked` belong to the last report of its node,
    `asked` is the sequence of the request that it answers; `reason` says why loading failed.
    """

    source: str
    loaded: bool
    reason: str = ""
    digest: str = ""
    asked: int = 0
    held: tuple[str, ...] = ()


class Offer(Struct, frozen=True, gc=False):
    """The version that an adapter's name stands for, whichever replica answers.

    `asked` is the sequence of the last request for it. `served` is the sequence of the request
    whose version answers now (0: none yet), from `source` and with `digest` ("" if unknown).
    `tried` is the last request that was given up, `refused` its source, and `kept` why the previous
    version stayed.
    """

    asked: int = 0
    served: int = 0
    source: str = ""
    digest: str = ""
    tried: int = 0
    refused: str = ""
    kept: str = ""

    @property
    def pending(self) -> bool:
        """Whether a version was requested that the name does not stand for yet."""
        return self.asked != self.served


class Launch(Struct, frozen=True, gc=False):
    """What an engine is started with: any change of it replaces the running engine."""

    source: str
    name: str
    task: Task
    lora: bool
    memory: int | str | None
    options: dict[str, OptionValue]
    env: dict[str, Variable]


class Replica(Struct, frozen=True, gc=False, kw_only=True):
    """One replica of a model, from its assignment until its engine is gone.

    `launch` is what its engine is started with, from the plan that gave it its present version.
    `memory`: bytes of each device that it uses; 0 once it was given up for good. `retired` replicas
    are no longer wanted: they stay while their engine is ending. `changed` is the sequence and
    `since` the time (ns) of the last event about it. `served`: an engine of it has been ready, also
    an earlier one.
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
    served: bool = False

    @property
    def serving(self) -> bool:
        """Whether requests may be sent to it: it is ready, wanted, and of the plan's version."""
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
    """What a node measured of a source: bytes of its weights, and cache bytes of one token.

    `context`: tokens that a request may have. All are 0 if they could not be measured.
    """

    source: str
    weights: int
    cache_per_token: int
    context: int
    reason: str = ""


class Model(Struct, frozen=True, gc=False, kw_only=True):
    """One requested model.

    `spec` is what is wanted, `launch` and `assignments` what the last plan made of it.
    `requested_seq` is the sequence of the last event that needs a plan, `planned_seq` that of the
    last one that got a plan: a model with a larger `requested_seq` waits for a router's decision.
    `created_ns` is the time (ns) of its first load request. `asleep`: no replicas until a request
    comes. `scaled`: how many the load last called for. `proven` is the last spec with which every
    replica got ready; `rolled_back` says why the spec after it was given up. `moving`: replicas
    that are to move elsewhere. `adapters` are the sources that are wanted, by name; `offers` what
    each name stands for. `leaving`: adapters that the last load request no longer names, which
    answer until its replicas serve. `tasks`: what its engines have told that they support, since
    its source, task or options last changed. `context`: tokens that prompt and answer may have
    together, likewise; 0 until it is told.
    """

    id: str
    name: str
    spec: ModelLoadRequested
    adapters: dict[str, str]
    requested_seq: int = field(name="intent")
    planned_seq: int = field(name="answered", default=0)
    version: int = 0
    launch: Launch | None = None
    assignments: tuple[Assignment, ...] = ()
    replicas: tuple[str, ...] = ()
    unschedulable: str = ""
    missing: int = 0
    unloading: bool = False
    changed: int = 0
    created_ns: int = field(name="created", default=0)
    asleep: bool = False
    scaled: int | None = None
    measured: Measured | None = None
    proven: ModelLoadRequested | None = None
    rolled_back: str = ""
    moving: tuple[str, ...] = ()
    offers: dict[str, Offer] = {}
    leaving: dict[str, str] = {}
    tasks: tuple[str, ...] = ()
    context: int = 0

    @property
    def wanted(self) -> int:
        """The number of replicas that it should have now."""
        if self.asleep or self.unloading:
            return 0
        auto = self.spec.autoscale
        if auto is None:
            return self.spec.replicas
        called = self.spec.replicas if self.scaled is None else self.scaled
        return min(max(called, auto.least), auto.most)

    @property
    def task(self) -> Task:
        """Its task: chat or embedding."""
        return self.spec.task

    @property
    def lora(self) -> bool:
        """Whether its engines can load adapters."""
        return self.spec.lora if self.spec.lora is not None else bool(self.spec.adapters)


class CachedSource(Struct, frozen=True, gc=False):
    """A source's files on a node: `done` of `total` bytes; `whole` once they are complete.

    `fetched`: the node itself fetched them; others were on its disk before. `waits`: what it waits
    for before it fetches them, `since` when (ns); `since` is also when the last try failed.
    """

    done: int = 0
    total: int = 0
    whole: bool = False
    pinned: bool = False
    removing: bool = False
    reason: str = ""
    retry_in: float | None = None
    fetched: bool = False
    waits: str = ""
    since: int = 0


class Node(Struct, frozen=True, gc=False, kw_only=True):
    """A machine that offers devices. A lost, stopped or draining node gets no new replicas.

    `stopped`: its process ended in good order, and none has registered since.

    `weights`: the files that it has or fetches, by source. `registered`: the sequence of its last
    registration. `suspected`: the sequence of an unanswered suspicion. `doubts`: how often in a row
    it was lost or falsely suspected, the last time at `doubted` (ns). `rehearsal`: its engines may
    be killed on request.
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
    weights: dict[str, CachedSource] = {}
    registered: int = 0
    suspected: int = 0
    doubts: int = 0
    doubted: int = 0
    reads: int = 0
    stopped: bool = False
    rehearsal: bool = False

    @property
    def away(self) -> bool:
        """Whether no process is known to run it: it is lost, or was stopped."""
        return self.lost or self.stopped

    @property
    def closed(self) -> str:
        """Why no new replicas may be placed here, in one word; "" if they may."""
        if self.lost:
            return "lost"
        return "stopped" if self.stopped else "draining" if self.draining else ""

    @property
    def schedulable(self) -> bool:
        """Whether new replicas may be placed here."""
        return not (self.draining or self.lost or self.stopped)


class Rejection(Struct, frozen=True, gc=False):
    """A rejected entry that has not been answered by `EventRejected` yet."""

    seq: int
    subject: str
    reason: str


class NameBinding(Struct, frozen=True, gc=False):
    """What a public name stands for: a model, one of its adapters, or an alias."""

    model: str
    adapter: str = ""
    alias: str = ""


class Occupancy(Struct, frozen=True, gc=False):
    """The use of a node by replicas: their ids, and the bytes that they use of each device.

    A retired replica uses its memory until its engine is gone.
    """

    replicas: frozenset[str] = frozenset()
    used: dict[int, int] = {}


class State(Struct, frozen=True, gc=False, kw_only=True):
    """The cluster after the event at `seq`.

    `models_seq` is the last sequence on the subjects of models, `nodes_seq` on those of nodes,
    `batches_seq` on those of batches, `keys_seq` on those of keys: decisions and intents are
    appended under these guards. `valid_keys`: how many keys are not revoked. `limits`: those of
    tenants and models, by `limits_of`. `capacity_seq`: the last event that may have made room.

    The last three follow from the others. `occupancy`: the use of each node. `apart`: by model, the
    other models that must not share a node with it. `unsettled`: the models for which a decision
    may be due; for all others none is.
    """

    seq: int = 0
    time: int = 0
    models_seq: int = 0
    nodes_seq: int = 0
    batches_seq: int = 0
    keys_seq: int = 0
    valid_keys: int = 0
    capacity_seq: int = 0
    models: HashTrieMap[str, Model] = HashTrieMap()
    replicas: HashTrieMap[str, Replica] = HashTrieMap()
    nodes: HashTrieMap[str, Node] = HashTrieMap()
    aliases: HashTrieMap[str, Alias] = HashTrieMap()
    names: HashTrieMap[str, NameBinding] = HashTrieMap()
    batches: HashTrieMap[str, Batch] = HashTrieMap()
    keys: HashTrieMap[str, Key] = HashTrieMap()
    limits: HashTrieMap[str, UsageLimits] = HashTrieMap()
    captures: HashTrieMap[str, Capture] = HashTrieMap()
    rejections: HashTrieMap[int, Rejection] = HashTrieMap()
    cluster: Cluster = Cluster()
    occupancy: HashTrieMap[str, Occupancy] = HashTrieMap()
    apart: HashTrieMap[str, frozenset[str]] = HashTrieMap()
    unsettled: HashTrieSet[str] = HashTrieSet()

    def replicas_of(self, model: Model) -> list[Replica]:
        """Return a model's replicas, including retired ones, in the order of their numbers."""
        known = self.replicas
        return [
            replica for identity in model.replicas if (replica := known.get(identity)) is not None
        ]


EMPTY = State()


def replica_id(model: str, number: int) -> str:
    """Return the id of a model's replica: `chat-0`."""
    return f"{model}-{number}"


def proven_spec(model: Model) -> ModelLoadRequested | None:
    """Return the spec after a rollback: the proven one, with the present number of replicas."""
    if model.proven is None:
        return None
    spec = model.spec
    back = tuple([each for each in model.proven.adapters if each.name in model.leaving])
    return replace(
        model.proven,
        replicas=spec.replicas,
        autoscale=spec.autoscale,
        adapters=spec.adapters + back,
    )


def launch_of(model: Model) -> Launch:
    """Return what the model's engines are to be started with now.

    If it is the same as in the last plan, the same object is returned, which is quick to compare.
    """
    spec = model.spec
    launch = Launch(
        spec.source, model.name, spec.task, model.lora, spec.memory, spec.options, spec.env
    )
    return model.launch if model.launch is not None and model.launch == launch else launch
