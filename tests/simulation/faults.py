"""What a step of a scenario does to the cluster: intents and requests, and all kinds of trouble."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from nebula.actors.router.loss import LOST_AFTER
from nebula.events.values import Device
from nebula.events.vocabulary import EngineFailed
from tests.simulation.cluster import Cluster
from tests.simulation.gateway import Gateway
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.scenario import FORGED, Step

NONSENSE = (
    ("nebula.events.model.{}.ModelLoadRequested", b"{"),
    ("nebula.events.model.{}.ModelLoadRequested", b'{"sauce": "/model"}'),
    ("nebula.events.model.{}.ModelScaleRequested", b'{"replicas": -1}'),
    ("nebula.events.nobody.{}.ModelLoaded", b"{}"),
)


def happen(cluster: Cluster, step: Step) -> None:
    """Let a step happen; one that makes no sense at that moment does nothing."""
    who, seconds = step.who, step.amount
    machine = cluster.machines.get(who)
    if step.what not in ("publish", "ask", "slack"):
        cluster.faults[step.what] += 1
    match step.what:
        case "publish" if step.event is not None:
            cluster.publish(who, step.event)
        case "nonsense":
            subject, payload = NONSENSE[int(seconds)]
            cluster.publish_raw(subject.format(who), payload)
        case "ask":
            for _ in range(int(seconds)):
                cluster.clients.ask(who, may_leave=True)
        case "slack":
            for _ in range(int(seconds)):
                cluster.clients.ask(who, slack=True)
        case "crash router":
            cluster.routers[who].crash()
            cluster.clock.after(seconds, _restart_router, cluster, who)
        case "cut router":
            cluster.router_links[who].cut(seconds)
            cluster.router_links[who].when_back(partial(_reconnected, cluster, who))
        case "deaf router":
            # Not transitive, and in one direction only: both sides reach the log all the while.
            for _, link in sorted(_links_of_others(cluster, who).items()):
                if cluster.rng.random() < 0.6:
                    link.hide(who, seconds)
            if cluster.rng.random() < 0.6:
                cluster.routers[who].stored_away = cluster.clock.now + seconds
        case "kill busy" | "cut busy" | "stall busy" | "lossy busy":
            _trouble_busy(cluster, who, step.what, seconds)
        case "crash gateway":
            if cluster.crash_gateway(who):
                cluster.clock.after(seconds, cluster.start_gateway, who)
        case "cut gateway":
            _cut_gateway(cluster, who, seconds)
        case "lossy gateway":
            cluster.gateway_links[who].loss = 0.3
            cluster.clock.after(seconds, cluster.gateway_links[who].heal)
        case "stream lost":
            cluster.lose_kept()
        case "nats away":
            for place in cluster.gateway_links:
                _cut_gateway(cluster, place, seconds)
            for link in [*_links_of_others(cluster, "").values()]:
                link.cut(seconds)
            for name, link in cluster.router_links.items():
                link.when_back(partial(_reconnected, cluster, name))
        case _ if machine is not None:
            _harm(cluster, machine, step.what, seconds)


def _trouble_busy(cluster: Cluster, model: str, what: str, seconds: float) -> None:
    """Trouble the first engine that has a request for a model, if there is one."""
    busy = (
        engine
        for machine in cluster.machines.values()
        for engine in machine.engines.values()
        if engine.model == model and engine.requests
    )
    engine = next(busy, None)
    if engine is None:
        return
    link = engine.machine.link
    match what:
        case "kill busy":
            engine.exit(-9)
        case "cut busy":
            link.cut(seconds)
        case "stall busy":
            link.stall(seconds)
        case "lossy busy":
            link.loss = 0.3
            link.clock.after(seconds, link.heal)


def _cut_gateway(cluster: Cluster, place: str, seconds: float) -> None:
    link = cluster.gateway_links[place]
    link.cut(seconds)
    for gateway in cluster.gateways.values():
        if gateway.alive and gateway.link is link:
            gateway.on_disconnect()
            link.when_back(partial(_gateway_back, gateway))


def _gateway_back(gateway: Gateway) -> None:
    if gateway.alive:
        gateway.on_reconnect()


def _harm(cluster: Cluster, machine: Machine, what: str, seconds: float) -> None:
    now, trouble = cluster.clock.now, machine.trouble
    match what:
        case "crash node":
            cluster.nodes[machine.id].crash()
            cluster.clock.after(seconds, _restart_node, cluster, machine)
        case "stop node":
            ended = partial(cluster.clock.after, seconds, _restart_node, cluster, machine)
            cluster.nodes[machine.id].stop(ended)
        case "reboot":
            cluster.nodes[machine.id].crash()
            machine.reboot()
            cluster.clock.after(seconds, _restart_node, cluster, machine)
        case "cut node":
            machine.link.cut(seconds)
        case "lose node":
            machine.link.cut(LOST_AFTER + 5 + seconds)
        case "lossy":
            machine.link.loss = 0.3
            cluster.clock.after(seconds, machine.link.heal)
        case "kill engine":
            running = [each for each in machine.engines.values() if not each.exited]
            if running:
                running[int(seconds * 7) % len(running)].exit(-9)
        case "false report":
            running = [each for each in machine.engines.values() if not each.exited]
            if running:
                given_up = int(seconds) % 2
                said = EngineFailed(FORGED, retry_in=None if given_up else seconds)
                replica = running[int(seconds * 7) % len(running)].replica
                cluster.publish(replica, said, machine.id)
        case "starts fail":
            trouble.starts_fail = max(trouble.starts_fail, now + seconds)
        case "slow starts":
            trouble.slow = max(trouble.slow, now + seconds)
            trouble.slow_factor = 5.0
        case "adapters fail":
            trouble.adapters_fail = max(trouble.adapters_fail, now + seconds)
        case "one device more":
            more = Device(len(machine.devices), "gpu", "simulated", machine.devices[0].memory)
            _rebuild(cluster, machine, (*machine.devices, more), seconds)
        case "one device fewer":
            _rebuild(cluster, machine, machine.devices[:-1] or machine.devices, seconds)
        case "smaller devices":
            small = [replace(each, memory=each.memory // 2) for each in machine.devices]
            _rebuild(cluster, machine, tuple(small), seconds)


def _rebuild(
    cluster: Cluster, machine: Machine, devices: tuple[Device, ...], seconds: float
) -> None:
    """A machine is taken down and comes back with other devices."""
    cluster.nodes[machine.id].crash()
    machine.reboot()
    machine.shrunk = machine.shrunk or _memory(devices) < _memory(machine.devices)
    machine.devices = devices
    cluster.clock.after(seconds, _restart_node, cluster, machine)


def _restart_node(cluster: Cluster, machine: Machine) -> None:
    if not cluster.nodes[machine.id].alive:
        cluster.start_node(machine)


def _restart_router(cluster: Cluster, name: str) -> None:
    if not cluster.routers[name].alive:
        cluster.start_router(name)


def _reconnected(cluster: Cluster, name: str) -> None:
    observer = cluster.routers[name].observer
    if observer is not None:
        observer.restart()


def _links_of_others(cluster: Cluster, router: str) -> dict[str, Link]:
    """Return the ways to NATS of all machines, and of all routers but one."""
    machines = {machine.id: machine.link for machine in cluster.machines.values()}
    routers = {name: link for name, link in cluster.router_links.items() if name != router}
    return machines | routers


def _memory(devices: tuple[Device, ...]) -> int:
    """Return all of their memory."""
    return sum(each.memory for each in devices)
