"""What deciding costs in a large cluster: 1,000 nodes, 10,000 models, and a node that is lost.

Needs nothing that runs. Makes the log of a cluster that grows to that size (every decision is a
router's own), and times each decision, with what a router remembers from one to the next and
without. Then it folds the whole log again, and loses a node that held 500 replicas.
"""

import argparse
import gc
import random
import subprocess
import sys
import tempfile
import time

from nebula.actors.placement.decision import Decider, Decision, decide
from nebula.actors.placement.resilience import Resilience
from nebula.events import record, snapshot
from nebula.events.evolve import evolve
from nebula.events.intents import ModelLoadRequested, ModelScaleRequested, NodeDrainRequested
from nebula.events.memory import GIB
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from nebula.events.values import Device
from nebula.events.vocabulary import EngineReady, EngineStarted, Event, NodeLost, NodeRegistered

SECOND = 10**9
ZONES = ("a", "b", "c")
HUGE = "huge"
"""A node whose devices hold hundreds of small replicas, so that many move at once."""


class Cluster:
    """A log in memory, and how much CPU time each decision about it took, in seconds."""

    def __init__(self) -> None:
        self.state: State = EMPTY
        self.log: list[Record] = []
        self.took: list[float] = []
        self.idle: list[float] = []
        """Where nothing was called for."""
        self._decider = Decider()

    def append(self, identity: str, event: Event) -> None:
        seq = self.state.seq + 1
        subject = record.subject_of(identity, event)
        entry = Record(seq, seq * SECOND, subject, subject.split(".")[2], identity, event)
        self.log.append(entry)
        self.state = evolve(self.state, entry)

    def decide(self) -> tuple[Decision, ...]:
        begun = time.process_time()
        found = self._decider.decide(self.state)
        (self.took if found else self.idle).append(time.process_time() - begun)
        for each in found:
            self.append(each.id, each.event)
        return found

    def settle(self) -> int:
        """Decide until nothing is left to decide; give how many decisions that were."""
        count = 0
        while self.decide():
            count += 1
        return count

    def serve(self, model: str) -> None:
        """Let the engines of a model's replicas start, and a router look after each event."""
        for place in self.state.models[model].assignments:
            replica = self.state.replicas[place.replica]
            if replica.engine is None or replica.engine.version != place.version:
                self.append(replica.id, EngineStarted(7, 1.0, 8001, "/log", place.version))
                self.decide()
                self.append(replica.id, EngineReady("0.32", 9.0))
                self.decide()


def grow(nodes: int, models: int, seed: int) -> Cluster:
    """Register nodes, load models one after the other, and let them serve."""
    chance = random.Random(seed)
    cluster = Cluster()
    for number in range(nodes - 1):
        gpus = tuple(Device(index, "gpu", "H100", 80 * GIB) for index in range(8))
        labels = {"zone": ZONES[number % 3]}
        cluster.append(f"n{number}", NodeRegistered(gpus, labels=labels))
        cluster.decide()
    large = tuple(Device(index, "gpu", "large", 1000 * GIB) for index in range(8))
    cluster.append(HUGE, NodeRegistered(large, labels={"zone": "huge"}))
    cluster.took.clear()
    for number in range(models):
        identity = f"m{number}"
        cluster.append(identity, _request(chance, number))
        cluster.settle()
        cluster.serve(identity)
    return cluster


def _request(chance: random.Random, number: int) -> ModelLoadRequested:
    """Mostly small models; some ask for a zone, for several GPUs, or to be kept apart."""
    if number % 20 == 0 and number < 10_000:  # 500 of 10,000, which only one node may have
        return ModelLoadRequested(f"/m{number}", memory="10GiB", labels={"zone": "huge"})
    return ModelLoadRequested(
        f"/m{number}",
        replicas=chance.choice((1, 1, 1, 2, 3)),
        memory=f"{chance.choice((6, 12, 20, 40))}GiB",
        policy=chance.choice(("spread", "spread", "binpack")),
        labels={"zone": chance.choice(ZONES)} if number % 10 == 0 else {},
        apart=(f"m{number}",) if number % 7 == 0 else (),
        options={"tensor-parallel-size": 4} if number % 50 == 7 else {},
    )


def shown(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    p50, p99 = (1000 * ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    print(
        f"| {name} | {len(ordered)} | {p50:.3f} ms | {p99:.3f} ms | {1000 * ordered[-1]:.1f} ms |"
    )


def lose(cluster: Cluster, node: str) -> None:
    """Time every decision until what a node held is elsewhere, engines started."""
    held = cluster.state.occupancy[node].replicas
    moving = sorted({cluster.state.replicas[each].model for each in held})
    cluster.append("refuge", cluster_node(cluster.state, node))
    cluster.settle()
    cluster.took.clear()
    cluster.append(node, NodeLost("silent"))
    begun = time.process_time()
    plans = cluster.settle()
    seconds = time.process_time() - begun
    moved = sum(
        place.node != node for model in moving for place in cluster.state.models[model].assignments
    )
    shown("a node is lost", cluster.took)
    print(f"\n{moved} replicas of {len(moving)} models moved by {plans} plans in {seconds:.2f} s\n")


def ask_about_losses(state: State) -> None:
    """Time what the loss of each node would mean, certain ones and those that are decided."""
    begun = time.process_time()
    known = Resilience(state)
    ready = time.process_time()
    certain = sum(known.survives(node) for node in known.nodes)
    sure = time.process_time()
    missing = sum(each.missing for each in known.losses())
    ended = time.process_time()
    print(
        f"\nresilience: {ready - begun:.2f} s to begin; {certain} of {len(known.nodes)} nodes "
        f"certain in {sure - ready:.2f} s; all decided in {ended - sure:.2f} s, {missing} replicas "
        "without a place"
    )


def cluster_node(state: State, node: str) -> NodeRegistered:
    """Return a second node like one that is there."""
    known = state.nodes[node]
    return NodeRegistered(known.devices, labels=known.labels)


def rebuild(log: list[Record]) -> State:
    gc.collect()
    begun = time.process_time()
    state = EMPTY
    for entry in log:
        state = evolve(state, entry)
    seconds = time.process_time() - begun
    print(f"{len(log)} events folded in {seconds:.2f} s: {len(log) / seconds:,.0f} a second")
    return state


def main() -> None:
    """Run it all and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    cluster = grow(given.nodes, given.models, given.seed)
    state = cluster.state
    short = sum(bool(model.unschedulable) for model in state.models.values())
    print(
        f"{len(state.nodes)} nodes, {len(state.models)} models ({short} of them short of room), "
        f"{len(state.replicas)} replicas, {state.seq} events\n"
    )
    print("| deciding | times | p50 | p99 | longest |\n| --- | --- | --- | --- | --- |")
    shown("models are loaded one after the other", cluster.took)
    shown("an event that calls for nothing", cluster.idle)
    first_looks(cluster)
    ask_about_losses(cluster.state)
    lose(cluster, HUGE)
    again = rebuild(cluster.log)
    assert snapshot.digest(again) == snapshot.digest(cluster.state)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(snapshot.dump(cluster.state))
        file.flush()
        print(subprocess.check_output([sys.executable, "-c", HOLD, file.name], text=True).strip())


HOLD = """
import pathlib, sys
import psutil
from nebula.events import snapshot
process = psutil.Process()
before = process.memory_info().rss
data = pathlib.Path(sys.argv[1]).read_bytes()
size, state = len(data), snapshot.load(data)
del data
held = process.memory_info().rss - before
print(f"a process that starts from its snapshot of {size >> 20} MiB grows by {held >> 20} MiB")
"""


def first_looks(cluster: Cluster, times: int = 200) -> None:
    """Time decisions that place something: of a router that has just begun, and of one at work."""
    chance = random.Random(1)
    fresh, warm = [], []
    identities = sorted(cluster.state.models)
    for _ in range(times):
        model = cluster.state.models[chance.choice(identities)]
        cluster.append(model.id, ModelScaleRequested(len(model.assignments) + 1))
        begun = time.process_time()
        decide(cluster.state)
        fresh.append(time.process_time() - begun)
        cluster.took.clear()
        cluster.decide()
        warm += cluster.took
        cluster.settle()
    shown("one replica more, by a router at work", warm)
    shown("the same by one that knows nothing yet", fresh)
    cluster.took.clear()
    for node in sorted(cluster.state.nodes)[1:6]:
        cluster.append(node, NodeDrainRequested())
        cluster.settle()
        for identity in identities:
            model = cluster.state.models[identity]
            if any(cluster.state.replicas[each].engine is None for each in model.replicas):
                cluster.serve(identity)
                cluster.settle()
    shown("five nodes are drained, by surge", cluster.took)


if __name__ == "__main__":
    main()
