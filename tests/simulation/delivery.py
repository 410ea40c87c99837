"""NATS beside the log: a message comes to whoever listens to its subject, or is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from tests.simulation.client import Client
from tests.simulation.invariants import Invariants
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.router import Router

REPLICAS = "nebula.inference.replicas."


class Delivery:
    """See the module. `client` is there before the first message is.

    `stored`: the sequences of the nodes' last heartbeats.
    """

    client: Client

    def __init__(
        self,
        laws: Invariants,
        rng: Random,
        routers: Mapping[str, Router],
        machines: Mapping[str, Machine],
    ) -> None:
        self._laws = laws
        self._rng = rng
        self._routers = routers
        self._machines = machines
        self.stored: dict[str, int] = {}

    def send(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        """Publish a message over a link."""
        if subject.startswith(REPLICAS):
            self._laws.on_routed(subject.rpartition(".")[2], header)
        if not link.loses():
            link.clock.after(link.delay(), self._arrive, link, subject, header, body)

    def _arrive(self, link: Link, subject: str, header: bytes, body: bytes) -> None:
        """NATS hands a message to whoever listens to its subject."""
        if not link.up:
            return
        _, family, kind, *rest = subject.split(".")
        raw = subject.encode()
        match family, kind:
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
                self.client.on_piece(rest[1], header, body)
            case "inference", "finished":
                self._to_routers(link, "on_finished", raw, header, body)
            case "inference", "cancel":
                self._to_routers(link, "on_cancel", raw, header, body)
            case "status", "replica":
                self._to_routers(link, "on_status", raw, header, body)
            case "status", "node":
                self.stored[rest[0]] = self.stored.get(rest[0], 0) + 1
                self._to_observers(link, "on_node", raw, body)
            case "status", "router":
                self._to_observers(link, "on_router", raw, body)

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


def _deliver(
    router: Router,
    handle: Callable[[bytes, bytes, bytes], None],
    subject: bytes,
    header: bytes,
    body: bytes,
) -> None:
    if router.alive:
        handle(subject, header, body)
