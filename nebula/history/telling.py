"""Events in words: one sentence for each, for people who look back."""

from typing import assert_never

from nebula.events import memory
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.record import Malformed, Record
from nebula.events.values import Assignment
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    ClusterFounded,
    ClusterVersionRaised,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    EventRejected,
    ModelAssigned,
    ModelMeasured,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeDeregistered,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeSuspected,
    WeightsRemoved,
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
        case ModelMeasured() as event:
            return _measured(event)
        case ModelScaled(replicas=replicas, reason=reason):
            return f"scaled to {_count(replicas, 'replica')}" + _because(reason)
        case ModelSlept(reason=reason):
            return "put to sleep" + _because(reason)
        case ModelWoken(reason=reason):
            return "woken" + _because(reason)
        case ModelRolledBack(reason=reason):
            return "rolled back to what last worked" + _because(reason)
        case EngineStarted() as event:
            return (
                f"engine started for plan {event.plan}: pid {event.pid}, port {event.port}, "
                f"attempt {event.attempt}"
            )
        case EngineReady(engine_version=version, seconds=seconds):
            return f"engine ready after {seconds:g} s" + (f", version {version}" * bool(version))
        case EngineFailed() as event:
            return _failed(event)
        case EngineStalled() as event:
            ends = (
                "nobody ends it"
                if event.ends_in is None
                else f"it is ended in {event.ends_in:g} s unless it makes progress"
            )
            return (
                f"stands still for {event.seconds:g} s with "
                f"{_count(event.requests, 'request')}{_because(event.reason)}; {ends}"
            )
        case EngineResumed(seconds=seconds):
            return "makes progress again" + (f" after {seconds:g} s" if seconds else "")
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
            return "asked to be empty: its replicas move elsewhere"
        case NodeUndrainRequested():
            return "asked to take replicas again"
        case ModelRebalanceRequested(replicas=moving):
            return f"asked to have {', '.join(moving)} elsewhere"
        case NodeSuspected(reason=reason):
            return "suspected" + _because(reason)
        case NodeHeard(reason=reason):
            return "lives" + _because(reason)
        case NodeLost(reason=reason):
            return "lost" + _because(reason)
        case NodeDeregistered():
            return "left for good"
        case WeightsPinRequested(source=source, pinned=pinned):
            return f"asked to {'keep' if pinned else 'no longer keep'} {source}"
        case WeightsRemoveRequested(source=source):
            return f"asked to remove {source} from its disk"
        case DownloadStarted(source=source, done=done, total=total):
            again = f", {memory.fine(done)} of it there already" if done else ""
            return f"fetching {source}: {memory.fine(total)}{again}"
        case DownloadProgressed(source=source, done=done, total=total):
            return f"{memory.fine(done)} of {memory.fine(total)} of {source}"
        case DownloadFinished(source=source, bytes=size, seconds=seconds):
            return f"has {source}: {memory.fine(size)} in {seconds:g} s"
        case DownloadFailed(source=source, reason=reason, retry_in=retry):
            again = "given up" if retry is None else f"again in {retry:g} s"
            return f"could not fetch {source} ({again}): {reason}"
        case WeightsRemoved(source=source, reason=reason):
            return f"removed {source} from its disk" + _because(reason)
        case AliasRequested() as event:
            return _alias(event)
        case AliasRemoveRequested():
            return "asked to be gone"
        case ClusterFounded(name=name, version=version):
            return f"founded{f' as {name}' if name else ''}, cluster version {version}"
        case ClusterVersionRaised(version=version, reason=reason):
            return f"goes by cluster version {version}" + _because(reason)
        case EventRejected(reason=reason):
            return f"event {record.id} was not acted upon: {reason}"
        case _:
            assert_never(record.content)


def place(each: Assignment) -> str:
    """Name an assignment: `chat-0 on n1/0 (6.0 GiB)`."""
    devices = "+".join(map(str, each.devices))
    return f"{each.replica} on {each.node}/{devices} ({memory.text(each.memory)})"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _measured(event: ModelMeasured) -> str:
    if not event.weights:
        return f"{event.source} can't be measured" + _because(event.reason)
    return (
        f"{event.source} has {memory.fine(event.weights)} of weights and takes "
        f"{event.cache_per_token} bytes for a token, of {event.context} at most"
    )


def _alias(event: AliasRequested) -> str:
    whole = sum(target.weight for target in event.targets)
    parts = [f"{target.model!r} ({target.weight} of {whole})" for target in event.targets]
    mirror = f", mirrored to {event.mirror!r}" if event.mirror else ""
    return f"asked to stand for {', '.join(parts)}{mirror}"


def _load(event: ModelLoadRequested) -> str:
    parts = [f"asked to load {event.source} for {event.task}", _count(event.replicas, "replica")]
    if event.name:
        parts.append(f"as {event.name!r}")
    if event.memory is not None:
        parts.append(f"{event.memory} each")
    if event.labels:
        parts.append("where " + ", ".join(f"{key}={each}" for key, each in event.labels.items()))
    if event.node:
        parts.append(f"on {'/'.join((event.node, *map(str, event.devices)))} only")
    if event.apart:
        parts.append("apart from " + ", ".join(event.apart))
    if event.adapters:
        parts.append("with " + ", ".join(repr(adapter.name) for adapter in event.adapters))
    return ", ".join(parts)


def _failed(event: EngineFailed) -> str:
    again = "given up" if event.retry_in is None else f"again in {event.retry_in:g} s"
    code = "" if event.exit_code is None else f", exit code {event.exit_code}"
    return f"engine failed (attempt {event.attempt}{code}; {again}): {event.reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
