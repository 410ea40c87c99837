"""NATS beside the log: a message reaches the listeners of its subject, or is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import msgspec

from nebula.events.inference import ALL_ATTEMPTS, StillWanted
from nebula.events.reading import number
from tests.simulation.gateway import Gateway
from tests.simulation.invariants import Invariants
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.router import Router

REPLICAS = "nebula.inference.replicas."
RESPONSES = "nebula.inference.responses."


class Delivery:
    """Carries messages between machines, routers and gateways.

    `stored`: the sequences of the nodes' last heartbeats. `kept`: what the data plane's stream
    holds of answers, by gateway and request.
    """

    def __init__(
        self,
        laws: Invariants,
        rng: Random,
        routers: Mapping[str, Router],
        machines: Mapping[str, Machine],
        gateways: Mapping[str, Gateway],
    ) -> None:
        self._laws = laws
        self._rng = rng
        self._routers = routers
        self._machines = machines
        self._gateways = gateways
        self.stored: dict[str, int] = {}
        self.kept: dict[tuple[str, str], list[tuple[bytes, bytes]]] = {}
        self._last: dict[tuple[Link, bool], float] = {}

    def send(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        """Publish a message over a link."""
        if subject.startswith(REPLICAS):
            self._laws.on_routed(subject.rpartition(".")[2], header)
        if link.loses():
            return
        delay = link.delay()
        if subject.startswith(RESPONSES):
            delay = self._in_order(link, delay, sent=True)
        link.clock.after(delay, self._arrive, link, subject, header, body)

    def _in_order(self, link: Link, delay: float, *, sent: bool) -> float:
        """Return the seconds that a piece takes: on one connection none overtakes another."""
        now = link.clock.now
        at = self._last[link, sent] = max(now + delay, self._last.get((link, sent), 0.0))
        return at - now

    def _arrive(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        """NATS delivers a message to the listeners of its subject."""
        if not link.up:
            return
        _, family, kind, *rest = subject.split(".")
        raw = subject.encode()
        match family, kind:
            case "inference", "requests" if len(rest) > 1:
                if rest[1] in self._routers:
                    self._to_router(self._routers[rest[1]], "on_request", raw, header, body)
            case "inference", "requests":
                listening = [each for each in self._routers.values() if each.listening]
                if listening:
                    self._to_router(self._rng.choice(listening), "on_request", raw, header, body)
            case "inference", "replicas":
                for machine in self._machines.values():
                    for engine in list(machine.engines.values()):
                        if engine.replica == rest[1] and engine.answers and machine.link.up:
                            delay = machine.link.delay()
                            link.clock.after(delay, engine.on_request, header, body)
            case "inference", "responses":
                self.kept.setdefault((rest[0], rest[1]), []).append((header, body))
                self._to_gateway(rest[0], raw, header, body)
            case "inference", "finished":
                self._to_routers(link, "on_finished", raw, header, body)
            case "inference", "cancel":
                self._to_routers(link, "on_cancel", raw, header, body)
                below = number(body)
                self._to_engines(rest[1], ALL_ATTEMPTS if below is None else below)
            case "waiting", gateway:
                self._answer_waiting(gateway, body)
            case "status", "replica":
                self._to_routers(link, "on_status", raw, header, body)
                self._to_gateways("on_replica", body)
            case "status", "node":
                self.stored[rest[0]] = self.stored.get(rest[0], 0) + 1
                self._to_observers(link, "on_node", raw, body)
            case "status", "router":
                self._to_observers(link, "on_router", raw, body)
                self._to_gateways("on_router", body)

    def _to_gateway(self, name: str, subject: bytes, header: bytes, body: bytes) -> None:
        gateway = self._gateways.get(name)
        if gateway is not None and gateway.alive and not gateway.link.loses():
            delay = self._in_order(gateway.link, gateway.link.delay(), sent=False)
            gateway.clock.after(delay, _say, gateway, subject, header, body)

    def _to_gateways(self, what: str, body: bytes) -> None:
        for gateway in self._gateways.values():
            if gateway.serves and not gateway.link.loses():
                gateway.clock.after(gateway.link.delay(), _beat, gateway, what, body)

    def _to_engines(self, identity: str, below: int) -> None:
        for machine in self._machines.values():
            for engine in list(machine.engines.values()):
                if identity in engine.requests and not machine.link.loses():
                    machine.clock.after(machine.link.delay(), engine.drop, identity, below)

    def _answer_waiting(self, name: str, body: bytes) -> None:
        """Have a gateway tell an engine which requests are unwanted, if the gateway is there."""
        asking = msgspec.json.decode(body, type=StillWanted)
        gateway = self._gateways.get(name)
        engines = [
            engine
            for machine in self._machines.values()
            for engine in machine.engines.values()
            if engine.replica == asking.replica and not machine.link.loses()
        ]
        if gateway is None or not gateway.alive or not gateway.link.up:
            for engine in engines:
                engine.drop_all_of(name)
            return
        if gateway.link.loses():
            return
        unwanted = gateway.on_waiting(body)
        for engine in engines:
            for identity, below in unwanted.requests.items():
                engine.drop(identity, below)

    def _to_routers(
        self, link: Link, what: str, subject: bytes, header: bytes, body: bytes
    ) -> None:
        for router in self._routers.values():
            if not link.hides(router.name):
                self._to_router(router, what, subject, header, body)

    def _to_observers(self, link: Link, what: str, subject: bytes, body: bytes) -> None:
        for router in self._routers.values():
            if router.listening and not link.hides(router.name) and not router.link.loses():
                handle = getattr(router.observer, what)
                router.link.clock.after(
                    router.link.delay(), _deliver, router, handle, subject, b"", body
                )

    def _to_router(
        self, router: Router, what: str, subject: bytes, header: bytes, body: bytes
    ) -> None:
        if router.listening and not router.link.loses():
            handle = getattr(router.dispatch, what)
            router.link.clock.after(
                router.link.delay(), _deliver, router, handle, subject, header, body
            )


def _say(gateway: Gateway, subject: bytes, header: bytes, body: bytes) -> None:
    if gateway.alive and gateway.link.up:
        gateway.on_piece(subject, header, body)


def _beat(gateway: Gateway, what: str, body: bytes) -> None:
    if gateway.alive and gateway.link.up:
        getattr(gateway.heartbeats, what)(b"", b"", body)


def _deliver(
    router: Router,
    handle: Callable[[bytes, bytes, bytes], None],
    subject: bytes,
    header: bytes,
    body: bytes,
) -> None:
    if router.alive:
        handle(subject, header, body)
