"""The world: it lets a scenario happen, then calm return, and tells what has become of it."""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter

from msgspec import Struct

from nebula.events import snapshot
from tests.simulation.calm import calm
from tests.simulation.cluster import Cluster
from tests.simulation.faults import happen
from tests.simulation.journal import Broken
from tests.simulation.scenario import Scenario


class Outcome(Struct):
    """What a run was: the `law` that was broken, and how; both empty if all held.

    `print` is the hash of the whole log: two runs with the same one were the same run.
    """

    seed: int
    law: str = ""
    broken: str = ""
    trace: str = ""
    at: float = 0.0
    print: str = ""
    events: int = 0
    steps: int = 0
    faults: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    attempts: Counter[str] = Counter()
    nodes: int = 0
    models: int = 0


class World:
    """One world."""

    def __init__(self, scenario: Scenario) -> None:
        self.cluster = Cluster(scenario)

    def run(self) -> Outcome:
        """Let everything happen, and tell what became of it."""
        cluster = self.cluster
        outcome = Outcome(cluster.scenario.seed, nodes=len(cluster.machines))
        try:
            for step in cluster.scenario.steps:
                cluster.clock.after(step.at, happen, cluster, step)
            cluster.clock.run(cluster.scenario.calm)
            calm(cluster)
        except Broken as broken:
            outcome.law, outcome.broken = broken.law, str(broken)
        except Exception as error:  # whatever the code under test raises is a finding
            outcome.law = type(error).__name__
            outcome.broken = f"{outcome.law}: {error}"
            outcome.trace = traceback.format_exc()
        outcome.at = cluster.clock.now
        outcome.events, outcome.steps = cluster.journal.seq, cluster.clock.steps
        outcome.faults = cluster.faults
        outcome.models = len(cluster.journal.state.models)
        outcome.asked = Counter(each.outcome.partition(":")[0] for each in cluster.clients.asked)
        sent = (gateway.attempts for gateway in cluster.gateways.values())
        outcome.attempts = sum(sent, Counter())
        outcome.print = self.fingerprint()
        return outcome

    def fingerprint(self) -> str:
        """Return a hash of the log, its times included, and of the state."""
        journal = self.cluster.journal
        whole = hashlib.sha256()
        for record in journal.records:
            whole.update(f"{record.seq} {record.time} {record.subject} {record.cause} ".encode())
            whole.update(repr(record.content).encode())
        whole.update(snapshot.digest(journal.state).encode())
        return whole.hexdigest()[:16]
