"""The cluster of a world: machines with their nodes, routers, gateways, clients, the log, NATS."""

from __future__ import annotations

from collections import Counter
from random import Random

from nebula.events import record as records
from nebula.events.vocabulary import Event
from tests.simulation.client import Clients
from tests.simulation.clock import Clock
from tests.simulation.delivery import Delivery
from tests.simulation.gateway import Gateway
from tests.simulation.invariants import Invariants
from tests.simulation.journal import Journal, Message
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.node import Node
from tests.simulation.router import Router
from tests.simulation.scenario import Scenario


class Cluster:
    """The cluster. `faults` counts what has been done to it."""

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
        self.gateways: dict[str, Gateway] = {}
        self.gateway_links: dict[str, Link] = {}
        self._delivery = Delivery(
            self.invariants, self.rng, self.routers, self.machines, self.gateways
        )
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
                scenario.seed,
            )
            machine.labels = hardware.labels
            self.machines[machine.id] = machine
            self.start_node(machine)
        for number in range(scenario.routers):
            name = f"router-{number}"
            self.router_links[name] = self._link(name)
            self.start_router(name)
        for number in range(scenario.gateways):
            place = f"gateway-{number}"
            self.gateway_links[place] = self._link(place)
            self.start_gateway(place)
        self.clients = Clients(self.clock, self.gateways, scenario.seed)
        self.invariants.routers, self.invariants.clients = self.routers, self.clients
        self.invariants.gateways = self.gateways

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

    def start_gateway(self, place: str) -> None:
        """Start a gateway where there is none any more; each life has an id of its own."""
        self._lives += 1
        name = f"{place}-{self._lives}"
        self.gateways[name] = Gateway(
            name,
            self.journal,
            self.gateway_links[place],
            self._random(f"gateway {self._lives}"),
            self._delivery.send,
            lambda gateway, request: tuple(self._delivery.kept.get((gateway, request), ())),
            self.invariants.on_direct,
        )

    def crash_gateway(self, place: str) -> bool:
        """Let the gateway there crash; False if none runs."""
        for gateway in self.gateways.values():
            if gateway.alive and gateway.link is self.gateway_links[place]:
                gateway.crash()
                self.clients.lose(gateway)
                return True
        return False

    def lose_kept(self) -> None:
        """The server that held the data plane's stream has restarted: the stream is empty."""
        self._delivery.kept.clear()

    def publish(self, identity: str, event: Event, node: str = "") -> None:
        """Append an intent as anybody may, or what a node may report."""
        self.publish_raw(records.subject_of(identity, event, node), records.encode(event))

    def publish_raw(self, subject: str, payload: bytes) -> None:
        """Append any message as anybody may."""
        self._published += 1
        self.journal.store(Message(subject, payload, {}, f"published-{self._published}"))

    def links(self) -> list[Link]:
        """Return the ways of all machines, routers and gateways to NATS."""
        machines = [machine.link for machine in self.machines.values()]
        return [*machines, *self.router_links.values(), *self.gateway_links.values()]
