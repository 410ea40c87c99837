"""NATS beside the log: a message reaches the listeners of its subject, or is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from nebula.events.inference import ALL_ATTEMPTS, StillWanted
from nebula.events.reading import number
from tests.simulation.engine import Engine
from tests.simulation.gateway import Gateway
from tests.simulation.invariants import Invariants
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.router import Router

REPLICAS = "nebula.inference.replicas."
GRANTS = "nebula.leases.granted."
ENGINES = (
    "nebula.inference.responses.",
    "nebula.inference.finished.",
    "nebula.status.replica.",
    "nebula.waiting.",
)
"""What engines say. Each has one connection, on which nothing overtakes what was said before."""


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
        if subject.startswith(GRANTS):
            gateway, router = subject.split(".")[3:]
            self._laws.on_lent(gateway, router, body, link.clock.now)
        if link.loses():
            return
        at = link.clock.now + link.delay()
        if subject.startswith(ENGINES):
            at = self._in_order(link, at, sent=True)
        link.clock.at(at, self._arrive, link, subject, header, body)

    def _in_order(self, link: Link, at: float, *, sent: bool) -> float:
        """Return when a message arrives on a connection, where none overtakes another."""
        at = self._last[link, sent] = max(at, self._last.get((link, sent), 0.0))
        return at

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
                gateway = self._gateways.get(rest[0])
                if gateway is not None and gateway.alive:
                    self._to_gateway(gateway, gateway.on_piece, raw, header, body)
            case "inference", "finished":
                self._to_routers(link, "on_finished", raw, header, body)
            case "inference", "cancel":
                self._to_routers(link, "on_cancel", raw, header, body)
                below = number(body)
                self._to_engines(rest[0], rest[1], ALL_ATTEMPTS if below is None else below)
            case "leases", "asked":
                if rest[1] in self._routers:
                    self._to_router(self._routers[rest[1]], "on_leases_asked", raw, header, body)
            case "leases", "granted":
                gateway = self._gateways.get(rest[0])
                if gateway is not None and gateway.alive:
                    self._to_gateway(gateway, gateway.reporting.on_granted, raw, header, body)
            case "leases", "recalled":
                self._to_routers(link, "on_leases_recalled", raw, header, body)
                for gateway in self._serving():
                    self._to_gateway(gateway, gateway.reporting.on_recalled, raw, header, body)
            case "waiting", name:
                self._ask_gateway(name, body)
            case "status", "replica":
                self._to_routers(link, "on_status", raw, header, body)
                for gateway in self._serving():
                    self._to_gateway(gateway, gateway.heartbeats.on_replica, raw, b"", body)
            case "status", "node":
                self.stored[rest[0]] = self.stored.get(rest[0], 0) + 1
                self._to_observers(link, "on_node", raw, body)
            case "status", "router":
                self._to_observers(link, "on_router", raw, body)
                for gateway in self._serving():
                    self._to_gateway(gateway, gateway.heartbeats.on_router, raw, b"", body)

    def _serving(self) -> list[Gateway]:
        return [gateway for gateway in self._gateways.values() if gateway.serves]

    def _to_gateway(self, gateway: Gateway, hears: Callable[..., None], *said: Any) -> None:
        if not gateway.link.loses():
            arrives = gateway.clock.now + gateway.link.delay()
            at = self._in_order(gateway.link, arrives, sent=False)
            gateway.clock.at(at, _hear, gateway, hears, *said)

    def _to_engines(self, model: str, identity: str, below: int) -> None:
        for machine in self._machines.values():
            for engine in list(machine.engines.values()):
                if engine.model == model and not machine.link.loses():
                    machine.clock.after(machine.link.delay(), engine.on_cancel, identity, below)

    def _ask_gateway(self, name: str, body: bytes) -> None:
        """An engine asks which requests are unwanted: all of them, where no gateway listens."""
        gateway = self._gateways.get(name)
        if gateway is not None and gateway.alive and gateway.link.up:
            self._to_gateway(gateway, self._answer_waiting, gateway, body)
            return
        asking = msgspec.json.decode(body, type=StillWanted)
        for engine in self._reached(asking.replica):
            delay = engine.machine.link.delay()
            engine.machine.clock.after(delay, engine.drop_all_of, name)

    def _answer_waiting(self, gateway: Gateway, body: bytes) -> None:
        asking = msgspec.json.decode(body, type=StillWanted)
        unwanted = gateway.on_waiting(body)
        if gateway.link.loses():
            return
        for engine in self._reached(asking.replica):
            delay = gateway.link.delay() + engine.machine.link.delay()
            for identity, below in unwanted.requests.items():
                engine.machine.clock.after(delay, engine.drop, identity, below)

    def _reached(self, replica: str) -> list[Engine]:
        return [
            engine
            for machine in self._machines.values()
            for engine in machine.engines.values()
            if engine.replica == replica and not machine.link.loses()
        ]

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


def _hear(gateway: Gateway, hears: Callable[..., None], *said: Any) -> None:
    if gateway.alive and gateway.link.up:
        hears(*said)


def _deliver(
    router: Router,
    handle: Callable[[bytes, bytes, bytes], None],
    subject: bytes,
    header: bytes,
    body: bytes,
) -> None:
    if router.alive:
        handle(subject, header, body)
