"""The world: it lets a scenario happen, then calm return, and looks at what has become of it."""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.router.observation import LOST_AFTER
from nebula.events import record as records
from nebula.events import snapshot
from nebula.events.intents import ModelLoadRequested, NodeUndrainRequested
from nebula.events.values import Adapter, Device
from nebula.events.vocabulary import Event
from tests.simulation.client import TIMEOUT, Asked, Client
from tests.simulation.clock import Clock
from tests.simulation.invariants import ANSWERED, SERVED, SETTLED, Invariants
from tests.simulation.journal import Broken, Journal, Message
from tests.simulation.machine import BROKEN_OPTION, Machine
from tests.simulation.network import Link
from tests.simulation.node import Node
from tests.simulation.router import Router
from tests.simulation.scenario import FAULTS, Scenario, Step

QUIET = 45.0
"""Seconds without an event after which the cluster is taken to be at rest."""

LONGEST = 3_000.0
"""Seconds of calm after which a cluster that still decides is taken to decide for ever."""

MOST_ASKED = 30
REPLICAS = "nebula.inference.replicas."

NONSENSE = (
    ("nebula.events.model.{}.ModelLoadRequested", b"{"),
    ("nebula.events.model.{}.ModelLoadRequested", b'{"sauce": "/model"}'),
    ("nebula.events.model.{}.ModelScaleRequested", b'{"replicas": -1}'),
    ("nebula.events.nobody.{}.ModelLoaded", b"{}"),
)


class Outcome(Struct):
    """What a run was: the `law` that was broken, and how; both empty where all held.

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
    nodes: int = 0
    models: int = 0


class World:
    """See the module."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.invariants = Invariants()
        self.journal = Journal(self.clock, self.invariants.on_append)
        self.invariants.journal = self.journal
        self.faults: Counter[str] = Counter()
        self._rng = self._random("network")
        self._lives = 0
        self._published = 0
        self.machines = self.invariants.machines
        self.nodes: dict[str, Node] = {}
        self.routers: dict[str, Router] = {}
        for hardware in scenario.machines:
            link = self._link(hardware.id, scenario.slow)
            rng = self._random(f"machine {hardware.id}")
            laws = self.invariants
            machine = Machine(
                hardware.id, hardware.devices, link, rng, self._send, laws.on_start, laws.on_take
            )
            machine.labels = hardware.labels
            self.machines[machine.id] = machine
            self._start_node(machine)
        self._router_links: dict[str, Link] = {}
        for number in range(scenario.routers):
            name = f"router-{number}"
            self._router_links[name] = self._link(name)
            self._start_router(name)
        self.client = Client(
            Link(self.clock, self._random("client")),
            self._send,
            lambda: self.journal.state,
            lambda router: self.routers[router].listening,
        )

    def _random(self, what: str) -> Random:
        return Random(f"{self.scenario.seed} {what}")

    def _link(self, what: str, slow: float = 0.0) -> Link:
        return Link(self.clock, self._random(f"link {what}"), slow=slow)

    def _start_node(self, machine: Machine) -> None:
        self._lives += 1
        rng = self._random(f"node {machine.id} {self._lives}")
        self.nodes[machine.id] = Node(machine, self.journal, rng, self._lives)

    def _start_router(self, name: str) -> None:
        self._lives += 1
        self.routers[name] = Router(
            name,
            self.journal,
            self._router_links[name],
            self._random(f"router {self._lives}"),
            self._send,
        )

    # The network

    def _send(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        if subject.startswith(REPLICAS):
            self.invariants.on_routed(subject.rpartition(".")[2], header)
        if not link.loses():
            self.clock.after(link.delay(), self._arrive, link, subject, header, body)

    def _arrive(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        """NATS hands a message to whoever listens to its subject."""
        if not link.up:
            return
        _, family, kind, *rest = subject.split(".")
        raw = subject.encode()
        match family, kind:
            case "inference", "requests":
                listening = [each for each in self.routers.values() if each.listening]
                if listening:
                    self._to_router(self._rng.choice(listening), "on_request", raw, header, body)
            case "inference", "replicas":
                for machine in self.machines.values():
                    for engine in list(machine.engines.values()):
                        if engine.replica == rest[1] and engine.answers and machine.link.up:
                            delay = machine.link.delay()
                            self.clock.after(delay, engine.on_request, header, body)
            case "inference", "responses":
                self.client.on_piece(rest[1], header, body)
            case "inference", "finished":
                self._to_routers("on_finished", raw, header, body)
            case "inference", "cancel":
                self._to_routers("on_cancel", raw, header, body)
            case "status", "replica":
                self._to_routers("on_status", raw, header, body)
            case "status", "node":
                self._to_observers("on_node", raw, body)
            case "status", "router":
                self._to_observers("on_router", raw, body)

    def _to_routers(self, what: str, subject: bytes, header: bytes, body: bytes) -> None:
        for router in self.routers.values():
            self._to_router(router, what, subject, header, body)

    def _to_observers(self, what: str, subject: bytes, body: bytes) -> None:
        for router in self.routers.values():
            if router.listening and not router.link.loses():
                handle = getattr(router.observer, what)
                self.clock.after(router.link.delay(), _deliver, router, handle, subject, b"", body)

    def _to_router(
        self, router: Router, what: str, subject: bytes, header: bytes, body: bytes
    ) -> None:
        if router.listening and not router.link.loses():
            handle = getattr(router.dispatch, what)
            self.clock.after(router.link.delay(), _deliver, router, handle, subject, header, body)

    # What happens

    def publish(self, identity: str, event: Event) -> None:
        """Append an intent as anybody may."""
        self._publish(records.subject_of(identity, event), records.encode(event))

    def _publish(self, subject: str, payload: bytes) -> None:
        self._published += 1
        self.journal.store(Message(subject, payload, {}, f"published-{self._published}"))

    def do(self, step: Step) -> None:
        """Let a step happen; one that makes no sense at that moment does nothing."""
        who, seconds = step.who, step.amount
        machine = self.machines.get(who)
        if step.what not in ("publish", "ask"):
            self.faults[step.what] += 1
        match step.what:
            case "publish" if step.event is not None:
                self.publish(who, step.event)
            case "nonsense":
                subject, payload = NONSENSE[int(seconds)]
                self._publish(subject.format(who), payload)
            case "ask":
                for _ in range(int(seconds)):
                    self.client.ask(who)
            case "crash router":
                self.routers[who].crash()
                self.clock.after(seconds, self._restart_router, who)
            case "cut router":
                self._router_links[who].cut(seconds)
                self._router_links[who].when_back(partial(self._reconnected, who))
            case "nats away":
                for link in self._links():
                    link.cut(seconds)
                for name, link in self._router_links.items():
                    link.when_back(partial(self._reconnected, name))
            case _ if machine is not None:
                self._harm(machine, step.what, seconds)

    def _harm(self, machine: Machine, what: str, seconds: float) -> None:
        now, trouble = self.clock.now, machine.trouble
        match what:
            case "crash node":
                self.nodes[machine.id].crash()
                self.clock.after(seconds, self._restart_node, machine)
            case "reboot":
                self.nodes[machine.id].crash()
                machine.reboot()
                self.clock.after(seconds, self._restart_node, machine)
            case "cut node":
                machine.link.cut(seconds)
            case "lose node":
                machine.link.cut(LOST_AFTER + 5 + seconds)
            case "lossy":
                machine.link.loss = 0.3
                self.clock.after(seconds, machine.link.heal)
            case "kill engine":
                running = [each for each in machine.engines.values() if not each.exited]
                if running:
                    running[int(seconds * 7) % len(running)].exit(-9)
            case "starts fail":
                trouble.starts_fail = max(trouble.starts_fail, now + seconds)
            case "slow starts":
                trouble.slow = max(trouble.slow, now + seconds)
                trouble.slow_factor = 5.0
            case "adapters fail":
                trouble.adapters_fail = max(trouble.adapters_fail, now + seconds)
            case "one device more":
                more = Device(len(machine.devices), "gpu", "simulated", machine.devices[0].memory)
                self._rebuild(machine, (*machine.devices, more), seconds)
            case "one device fewer":
                self._rebuild(machine, machine.devices[:-1] or machine.devices, seconds)
            case "smaller devices":
                small = [replace(each, memory=each.memory // 2) for each in machine.devices]
                self._rebuild(machine, tuple(small), seconds)

    def _rebuild(self, machine: Machine, devices: tuple[Device, ...], seconds: float) -> None:
        """A machine is taken down and comes back with other devices."""
        self.nodes[machine.id].crash()
        machine.reboot()
        machine.shrunk = machine.shrunk or sum_of(devices) < sum_of(machine.devices)
        machine.devices = devices
        self.clock.after(seconds, self._restart_node, machine)

    def _restart_node(self, machine: Machine) -> None:
        if not self.nodes[machine.id].alive:
            self._start_node(machine)

    def _restart_router(self, name: str) -> None:
        if not self.routers[name].alive:
            self._start_router(name)

    def _reconnected(self, name: str) -> None:
        observer = self.routers[name].observer
        if observer is not None:
            observer.restart()

    def _links(self) -> list[Link]:
        machines = [machine.link for machine in self.machines.values()]
        return [*machines, *self._router_links.values()]

    # The run

    def run(self) -> Outcome:
        """Let everything happen, and tell what became of it."""
        outcome = Outcome(self.scenario.seed, nodes=len(self.machines))
        try:
            for step in self.scenario.steps:
                self.clock.after(step.at, self.do, step)
            self.clock.run(self.scenario.calm)
            self._calm()
        except Broken as broken:
            outcome.law, outcome.broken = broken.law, str(broken)
        except Exception as error:  # whatever the code under test raises is a finding
            outcome.law = type(error).__name__
            outcome.broken = f"{outcome.law}: {error}"
            outcome.trace = traceback.format_exc()
        outcome.at = self.clock.now
        outcome.events, outcome.steps = self.journal.seq, self.clock.steps
        outcome.faults = self.faults
        outcome.models = len(self.journal.state.models)
        outcome.asked = Counter(each.outcome.partition(":")[0] for each in self.client.asked)
        outcome.print = self.fingerprint()
        return outcome

    def fingerprint(self) -> str:
        """Give a hash of the log, its times included, and of the state."""
        whole = hashlib.sha256()
        for record in self.journal.records:
            whole.update(f"{record.seq} {record.time} {record.subject} {record.cause} ".encode())
            whole.update(repr(record.content).encode())
        whole.update(snapshot.digest(self.journal.state).encode())
        return whole.hexdigest()[:16]

    def _calm(self) -> None:
        """End all trouble, try again what was given up, and wait until nothing happens any more."""
        lasting = [
            step.at + step.amount + 35 for step in self.scenario.steps if step.what in FAULTS
        ]
        self.clock.run(max([self.scenario.calm, *lasting]) + 1)
        for link in self._links():
            link.heal()
        for identity, node in self.nodes.items():
            state = self.journal.state
            known = state.nodes.get(identity)
            if known is not None and known.draining and self._rng.random() < 0.5:
                self.publish(identity, NodeUndrainRequested())
            assert node.alive
        self._rest()
        if self._try_again():
            self._rest()
        self._ask_all()

    def _rest(self) -> None:
        journal = self.journal
        began, first = self.clock.now, journal.seq
        while self.clock.now - max(journal.last_append, began) < QUIET:
            self.clock.run(self.clock.now + 5)
            many = 100 + 40 * len(journal.state.models) + 20 * len(journal.state.replicas)
            if self.clock.now - began > LONGEST or journal.seq - first > many:
                last = ", ".join(each.type for each in journal.records[-6:])
                raise Broken(
                    SETTLED, f"{journal.seq - first} events since it is calm, the last: {last}"
                )

    def _try_again(self) -> bool:
        """An operator asks once more for models of which a replica or an adapter was given up."""
        state = self.journal.state
        asked = False
        for identity in sorted(state.models):
            model = state.models[identity]
            replicas = list(state.replicas_of(model))
            if any(
                each.given_up or any(not status.loaded for status in each.adapters.values())
                for each in replicas
            ):
                self.publish(identity, again(model.spec, model.adapters))
                asked = True
        return asked

    def _ask_all(self) -> None:
        self.invariants.at_rest()
        state = self.journal.state
        asked: list[Asked] = []
        for identity in sorted(state.models):
            model = state.models[identity]
            replicas = list(state.replicas_of(model))
            if any(each.given_up for each in replicas) and not broken_launch(model.spec):
                raise Broken(
                    SERVED, f"a replica of {identity} was given up though nothing was wrong"
                )
            if any(each.serving for each in replicas) and len(asked) < MOST_ASKED:
                asked.append(self.client.ask(identity))
        self._wait_for_answers()
        for each in asked:
            if each.outcome != "answered":
                raise Broken(ANSWERED, f"{each.id} for {each.model}, which serves: {each.outcome}")
        self._wake_all()
        for each in self.client.asked:
            if not each.outcome:
                raise Broken(ANSWERED, f"{each.id} for {each.model} has no answer")

    def _wait_for_answers(self) -> None:
        end = self.clock.now + TIMEOUT + 20
        while self.clock.now < end and not all(each.outcome for each in self.client.asked):
            self.clock.run(self.clock.now + 2)

    def _wake_all(self) -> None:
        """Ask for those that sleep, one after the other: each comes, unless there is no room."""
        for identity in sorted(self.journal.state.models)[:MOST_ASKED]:
            model = self.journal.state.models[identity]
            comes = model.spec.autoscale is not None or (model.asleep and model.spec.replicas)
            if not comes or model.wanted or broken_launch(model.spec):
                continue
            asked = self.client.ask(identity)
            self._wait_for_answers()
            woken = self.journal.state.models[identity]
            if asked.outcome != "answered" and not woken.unschedulable:
                raise Broken(ANSWERED, f"{asked.id} for {identity}, which slept: {asked.outcome}")


def sum_of(devices: tuple[Device, ...]) -> int:
    """Give all of their memory."""
    return sum(each.memory for each in devices)


def again(spec: ModelLoadRequested, adapters: dict[str, str]) -> ModelLoadRequested:
    """Give the request that asks once more for what there is."""
    return replace(spec, adapters=tuple(Adapter(name, adapters[name]) for name in sorted(adapters)))


def broken_launch(spec: ModelLoadRequested) -> bool:
    """Tell whether engines can't get ready whatever one does."""
    return bool(spec.options.get(BROKEN_OPTION))


def _deliver(
    router: Router,
    handle: Callable[[bytes, bytes, bytes], None],
    subject: bytes,
    header: bytes,
    body: bytes,
) -> None:
    if router.alive:
        handle(subject, header, body)
