"""Events in words: one sentence for each, for people who look back."""

from typing import assert_never

from nebula.events import memory
from nebula.events.record import Malformed, Record
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterLoadRequested,
    AdapterUnloaded,
    AdapterUnloadRequested,
    Assignment,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    EventRejected,
    ModelAssigned,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloaded,
    ModelUnloadRequested,
    ModelUnschedulable,
    NodeDeregistered,
    NodeDrainRequested,
    NodeLost,
    NodeRegistered,
)


def told(record: Record) -> str:
    """Say what an event says."""
    match record.content:
        case Malformed(reason=reason):
            return f"no event: {reason}"
        case ModelLoadRequested() as event:
            return _load(event)
        case ModelScaleRequested(replicas=count):
            return f"asked for {_count(count, 'replica')}"
        case ModelUnloadRequested():
            return "asked to unload it"
        case AdapterLoadRequested(name=name, source=source):
            return f"asked for adapter {name!r} from {source}"
        case AdapterUnloadRequested(name=name):
            return f"asked to take adapter {name!r} off"
        case ModelAssigned(version=version, replicas=places):
            where = ", ".join(place(each) for each in places) or "no replicas"
            return f"plan {version}: {where}"
        case ModelUnschedulable(reason=reason, missing=missing):
            return f"{_count(missing, 'replica')} can't be placed: {reason}"
        case ModelUnloaded():
            return "gone: its last engine has ended"
        case EngineStarted() as event:
            return (
                f"engine started for plan {event.plan}: pid {event.pid}, port {event.port}, "
                f"attempt {event.attempt}"
            )
        case EngineReady(engine_version=version, seconds=seconds):
            return f"engine ready after {seconds:g} s" + (f", version {version}" * bool(version))
        case EngineFailed() as event:
            return _failed(event)
        case EngineStopped(reason=reason):
            return "engine ended" + (f": {reason}" if reason else "")
        case AdapterLoaded(name=name):
            return f"adapter {name!r} in place"
        case AdapterLoadFailed(name=name, reason=reason):
            return f"adapter {name!r} refused: {reason}"
        case AdapterUnloaded(name=name):
            return f"adapter {name!r} off"
        case NodeRegistered(devices=devices):
            listed = ", ".join(
                f"{each.kind}{each.index} {memory.text(each.memory)}" for each in devices
            )
            return f"registered with {listed or 'no devices'}"
        case NodeDrainRequested():
            return "asked to take no new replicas"
        case NodeLost(reason=reason):
            return "lost" + (f": {reason}" if reason else "")
        case NodeDeregistered():
            return "left for good"
        case EventRejected(reason=reason):
            return f"event {record.id} was not acted upon: {reason}"
        case _:
            assert_never(record.content)


def place(each: Assignment) -> str:
    """Name an assignment: `chat-0 on n1/0 (6.0 GiB)`."""
    devices = "+".join(map(str, each.devices))
    return f"{each.replica} on {each.node}/{devices} ({memory.text(each.memory)})"


def _load(event: ModelLoadRequested) -> str:
    parts = [f"asked to load {event.source} for {event.task}", _count(event.replicas, "replica")]
    if event.name:
        parts.append(f"as {event.name!r}")
    if event.memory is not None:
        parts.append(f"{event.memory} each")
    if event.adapters:
        parts.append("with " + ", ".join(repr(adapter.name) for adapter in event.adapters))
    return ", ".join(parts)


def _failed(event: EngineFailed) -> str:
    again = "given up" if event.retry_in is None else f"again in {event.retry_in:g} s"
    code = "" if event.exit_code is None else f", exit code {event.exit_code}"
    return f"engine failed (attempt {event.attempt}{code}; {again}): {event.reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
