"""The cluster of a world: its machines with their nodes, its routers, a client, the log, NATS."""

from __future__ import annotations

from collections import Counter
from random import Random

from nebula.events import record as records
from nebula.events.vocabulary import Event
from tests.simulation.client import Client
from tests.simulation.clock import Clock
from tests.simulation.delivery import Delivery
from tests.simulation.invariants import Invariants
from tests.simulation.journal import Journal, Message
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.node import Node
from tests.simulation.router import Router
from tests.simulation.scenario import Scenario


class Cluster:
    """See the module. `faults` counts what has been done to it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.invariants = Invariants()
        self.journal = Journal(self.clock, self.invariants.on_append)
        self.invariants.journal = self.journal
        self.faults: Counter[str] = Counter()
        self.rng = self._random("network")
        self._lives = 0
        self._published = 0
        self.machines = self.invariants.machines
        self.nodes: dict[str, Node] = {}
        self.invariants.nodes = self.nodes
        self.routers: dict[str, Router] = {}
        self.router_links: dict[str, Link] = {}
        self._delivery = Delivery(self.invariants, self.rng, self.routers, self.machines)
        for hardware in scenario.machines:
            link = self._link(hardware.id, scenario.slow)
            rng = self._random(f"machine {hardware.id}")
            laws = self.invariants
            machine = Machine(
                hardware.id,
                hardware.devices,
                link,
                rng,
                self._delivery.send,
                laws.on_start,
                laws.on_take,
            )
            machine.labels = hardware.labels
            self.machines[machine.id] = machine
            self.start_node(machine)
        for number in range(scenario.routers):
            name = f"router-{number}"
            self.router_links[name] = self._link(name)
            self.start_router(name)
        self.client = self._delivery.client = Client(
            Link(self.clock, self._random("client")),
            self._delivery.send,
            lambda: self.journal.state,
            lambda router: self.routers[router].listening,
        )

    def _random(self, what: str) -> Random:
        return Random(f"{self.scenario.seed} {what}")

    def _link(self, what: str, slow: float = 0.0) -> Link:
        return Link(self.clock, self._random(f"link {what}"), slow=slow)

    def start_node(self, machine: Machine) -> None:
        """Start a machine's node process, the first or the next one."""
        self._lives += 1
        rng = self._random(f"node {machine.id} {self._lives}")
        self.nodes[machine.id] = Node(machine, self.journal, rng, self._lives)

    def start_router(self, name: str) -> None:
        """Start a router, the first of its name or the next one."""
        self._lives += 1
        self.routers[name] = Router(
            name,
            self.journal,
            self.router_links[name],
            self._random(f"router {self._lives}"),
            self._delivery.send,
            self._delivery.stored,
        )

    def publish(self, identity: str, event: Event) -> None:
        """Append an intent as anybody may."""
        self.publish_raw(records.subject_of(identity, event), records.encode(event))

    def publish_raw(self, subject: str, payload: bytes) -> None:
        """Append any message as anybody may."""
        self._published += 1
        self.journal.store(Message(subject, payload, {}, f"published-{self._published}"))

    def links(self) -> list[Link]:
        """Give the ways of all machines and routers to NATS."""
        machines = [machine.link for machine in self.machines.values()]
        return [*machines, *self.router_links.values()]
