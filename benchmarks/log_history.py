"""The log that `benchmarks.log` makes: a cluster loads, scales, fails, heals and unloads for years.

Decisions are a router's own, and every entry has the headers that actors write.
"""

from nebula.actors.placement.decision import decide
from nebula.events import record
from nebula.events.evolve import evolve
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.memory import GIB
from nebula.events.record import Entry
from nebula.events.state import EMPTY, State
from nebula.events.values import Adapter, Device
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    REPORTS,
    AdapterLoaded,
    AdapterUnloaded,
    ClusterFounded,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    NodeRegistered,
)

NODES, MODELS = 16, 60
START = 1_700_000_000 * 10**9


class History:
    """The log so far, and the state that it folds to: decisions are the router's own."""

    def __init__(self) -> None:
        self.state: State = EMPTY
        self.entries: list[Entry] = []

    def append(self, identity: str, event: Event, cause: int = 0, basis: int = 0) -> int:
        """Append one event with the headers that an actor writes."""
        seq = self.state.seq + 1
        headers = {"Nats-Msg-Id": f"{seq:032x}", **record.headers_for(event)}
        known = self.state.replicas.get(identity)
        node = known.node if known is not None and type(event).__name__ in REPORTS else ""
        headers[record.ACTOR_HEADER] = "router 0" if basis else f"node {node}" if node else "cli"
        if cause:
            headers[record.CAUSE_HEADER] = str(cause)
        if basis:
            headers[record.BASIS_HEADER] = str(basis)
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        subject = record.subject_of(identity, event, node)
        body = record.encode(event)
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
        entry = Entry(seq, START + seq * 10**9, subject, block, body)
        self.entries.append(entry)
        self.state = evolve(self.state, record.read_entry(entry))
        return seq

    def settle(self) -> None:
        """Let a router decide, and nodes do what it wants."""
        while decisions := decide(self.state):
            basis = self.state.seq
            for each in decisions:
                self.append(each.id, each.event, each.cause, basis)

    def start(self, replica: str, attempt: int = 1) -> None:
        """Start an engine."""
        plan = self.state.replicas[replica].version
        pid = 1000 + self.state.seq % 30000
        path = f"/srv/nebula/logs/{replica}.log"
        cause = self.append(replica, EngineStarted(pid, 1.7e9, 40000, path, plan, attempt))
        self.append(replica, EngineReady("0.12.0", 21.5), cause)


def history(length: int) -> list[Entry]:
    """Make a log of so many events."""
    past = History()
    past.append("lab", ClusterFounded("lab", VERSION))
    for number in range(NODES):
        devices = tuple(Device(index, "gpu", "H100 80GB", 80 * GIB) for index in range(8))
        past.append(
            f"n{number}",
            NodeRegistered(devices, f"gpu-{number}", {"zone": "a"}, "0.1.0", reads=VERSION),
        )
    turn = 0
    while past.state.seq < length:
        model = f"model-{turn % MODELS}"
        turn += 1
        if model in past.state.models:
            _live(past, model)
            if turn % 7 == 0:
                _unload(past, model)
        else:
            source = f"organisation/{model}-instruct"
            adapters = (Adapter(f"{model}-sql", "/srv/adapters/sql"),)
            event = ModelLoadRequested(
                source, replicas=3, adapters=adapters, memory="12GiB", options={"seed": 1}
            )
            past.append(model, event)
            past.settle()
            for replica in past.state.models[model].replicas:
                past.start(replica)
                past.append(replica, AdapterLoaded(f"{model}-sql", "/srv/adapters/sql"))
    return past.entries[:length]


def _live(past: History, model: str) -> None:
    """Scale it up and down, let an engine fail and an adapter come and go."""
    before = set(past.state.models[model].replicas)
    past.append(model, ModelScaleRequested(4))
    past.settle()
    for replica in sorted(set(past.state.models[model].replicas) - before):
        past.start(replica)
    name = f"{model}-poet"
    past.append(model, AdapterLoadRequested(name, "/srv/adapters/poet"))
    for replica in sorted(past.state.models[model].replicas):
        past.append(replica, AdapterLoaded(name, "/srv/adapters/poet"))
    first = sorted(past.state.models[model].replicas)[0]
    tail = ("Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory")
    past.append(first, EngineFailed(tail[1], 1, tail, 1, 2.0))
    past.start(first, 2)
    past.append(model, AdapterUnloadRequested(name))
    for replica in sorted(past.state.models[model].replicas):
        past.append(replica, AdapterUnloaded(name))
    past.append(model, ModelScaleRequested(3))
    past.settle()
    for replica in sorted(past.state.models[model].replicas):
        if past.state.replicas[replica].retired:
            past.append(replica, EngineStopped("the model was scaled down"))


def _unload(past: History, model: str) -> None:
    past.append(model, ModelUnloadRequested())
    for replica in sorted(past.state.models[model].replicas):
        past.append(replica, EngineStopped("the model is unloaded"))
    past.settle()
