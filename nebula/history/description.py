"""Events in words: one sentence for each."""

from typing import assert_never

from nebula.events import memory
from nebula.events.alike import NAMED
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.evolve import evolve
from nebula.events.evolve_adapter import short
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    BatchCancelRequested,
    BatchRequested,
    EngineKillRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked
from nebula.events.limit_events import LimitsSet
from nebula.events.model_status import starts_before
from nebula.events.plain_text import plain
from nebula.events.record import Malformed, Record
from nebula.events.sources import is_folder
from nebula.events.state import EMPTY, Replica, State
from nebula.events.usage import UsageRolledUp
from nebula.events.usage_limits import limit_texts
from nebula.events.values import Assignment
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
    ClusterFounded,
    ClusterVersionRaised,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
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
    NodeStopped,
    NodeSuspected,
    ResilienceChanged,
    WeightsRemoved,
)
from nebula.history.key_rights import key_rights
from nebula.history.load_requests import replaced, settings


def describe(record: Record, before: State = EMPTY) -> str:
    """Return an event as a sentence, without control characters."""
    return plain(_told(record, before))


def _told(record: Record, before: State) -> str:
    match record.content:
        case Malformed(reason=reason):
            return f"not an event: {reason}"
        case ModelLoadRequested() as event:
            return _load(event) + _changed(record, before)
        case ModelScaleRequested(replicas=count):
            return f"asked for {_count(count, 'replica')}"
        case ModelUnloadRequested():
            return "asked to unload it"
        case AdapterLoadRequested(name=name, source=source):
            return f"asked for adapter {name!r} from {source}"
        case AdapterUnloadRequested(name=name):
            return f"asked to unload adapter {name!r}"
        case ModelAssigned(version=version, replicas=places):
            where = ", ".join(place(each) for each in places) or "no replicas"
            return f"plan {version}: {where}"
        case ModelUnschedulable(reason=reason, missing=missing):
            return f"{_count(missing, 'replica')} can't be placed: {reason}"
        case KeyIssued():
            return f"key issued: {key_rights(record.content)}"
        case KeyChanged(hash=new):
            what = "key replaced by a new one" if new else "key changed"
            return f"{what}: {key_rights(record.content)}"
        case UsageRolledUp(sums=sums, lost=lost):
            requests = sum(each.requests for each in sums)
            tokens = sum(each.prompt + each.completion for each in sums)
            gone = f"; {lost} messages with records were lost" if lost else ""
            return f"usage summed: {requests:,} requests, {tokens:,} tokens{gone}"
        case KeyRevoked(reason=reason):
            return "key revoked" + _because(reason)
        case LimitsSet(kind=kind, limits=limits):
            return f"limits of this {kind}: {', '.join(limit_texts(limits)) or 'none'}"
        case CaptureStarted() as event:
            return _capture(event)
        case CaptureStopped():
            return "capture stopped"
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
            known = f", version {version}" if version else ""
            return f"engine ready after {seconds:g} s{known}"
        case EngineFailed() as event:
            return _failed(event, before.replicas.get(record.id), before)
        case EngineStalled() as event:
            ends = (
                "its node does not end it"
                if event.ends_in is None
                else f"it is ended in {event.ends_in:g} s unless it makes progress"
            )
            held = f" with {_count(event.requests, 'request')}" if event.requests else ""
            still = f"has made no progress for {event.seconds:g} s{held}"
            return f"{still}{_because(event.reason)}; {ends}"
        case EngineResumed(seconds=seconds):
            return "makes progress again" + (f" after {seconds:g} s" if seconds else "")
        case EngineKillRequested():
            return "asked to kill its engine, as if it had crashed"
        case EngineStopped(reason=reason):
            return "engine ended" + _because(reason)
        case AdapterLoaded(name=name, digest=digest):
            return f"adapter {name!r} loaded" + (f", version {short(digest)}" if digest else "")
        case AdapterLoadFailed(name=name, reason=reason):
            return f"adapter {name!r} refused: {reason}"
        case AdapterUnloaded(name=name, digest=digest):
            return f"adapter {name!r} unloaded" + (f", version {short(digest)}" if digest else "")
        case NodeRegistered(devices=devices):
            listed = ", ".join(
                f"{each.kind}{each.index} {memory.text(each.memory)}" for each in devices
            )
            return f"registered with {listed or 'no devices'}"
        case NodeDrainRequested():
            return "asked to be emptied: its replicas move elsewhere"
        case NodeUndrainRequested():
            return "asked to take replicas again"
        case ModelRebalanceRequested(replicas=moving):
            return f"asked to move {', '.join(moving)} to another node"
        case NodeSuspected(reason=reason):
            return "suspected to be lost" + _because(reason)
        case NodeHeard(reason=reason):
            return "heard from again" + _because(reason)
        case NodeLost(reason=reason):
            return "lost" + _because(reason)
        case NodeStopped():
            return "stopped on request, with its engines: its replicas go elsewhere or wait for it"
        case NodeDeregistered():
            return "removed from the cluster"
        case WeightsPinRequested(source=source, pinned=pinned):
            return f"asked to {'keep' if pinned else 'no longer keep'} {source}"
        case WeightsRemoveRequested(source=source):
            return f"asked to remove {source} from its disk"
        case DownloadWaits(source=source, reason=reason):
            return f"{source} is not fetched yet: the node {reason}"
        case DownloadStarted(source=source, done=done, total=total):
            again = f", {memory.text(done)} of it there already" if done else ""
            return f"fetching {source}: {memory.text(total)}{again}"
        case DownloadProgressed(source=source, done=done, total=total):
            return f"{memory.text(done)} of {memory.text(total)} of {source}"
        case DownloadFinished(source=source) if is_folder(source):
            return f"found {source}"
        case DownloadFailed(source=source, reason=reason) if is_folder(source):
            return f"can't serve it: {reason}"
        case WeightsRemoved(source=source, reason=reason) if is_folder(source):
            return f"no longer looks for {source}" + _because(reason)
        case DownloadFinished(source=source, bytes=size, seconds=seconds):
            return f"fetched {source}: {memory.text(size)} in {seconds:g} s"
        case DownloadFailed(source=source, reason=reason, retry_in=retry):
            again = "not tried again" if retry is None else f"tried again in {retry:g} s"
            return f"could not fetch {source} ({again}): {reason}"
        case WeightsRemoved(source=source, reason=reason):
            return f"removed {source} from its disk" + _because(reason)
        case AliasRequested() as event:
            return _alias(event)
        case AliasRemoveRequested():
            return "asked to remove this alias"
        case BatchRequested(endpoint=endpoint, input=file):
            return f"asked to send every line of {file} to {endpoint}"
        case BatchStarted(lines=lines):
            return f"its input is valid: {_count(lines, 'line')}"
        case BatchProgressed() as event:
            return _lines_done(event)
        case BatchCancelRequested():
            return "asked to cancel it"
        case BatchFinished(outcome="failed", problems=problems):
            first = problems[0].message if problems else ""
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            return "failed, its input is not valid" + _because(first) + more
        case BatchFinished(outcome=outcome) as event:
            return f"{outcome}: {_lines_done(event)}"
        case BatchCancelled() as event:
            return f"cancelled: {_lines_done(event)}"
        case ClusterFounded(name=name, version=version):
            return f"founded{f' as {name}' if name else ''}, cluster version {version}"
        case ClusterVersionRaised(version=version, reason=reason):
            return f"now uses cluster version {version}" + _because(reason)
        case ResilienceChanged(nodes=nodes, count=count, reason=reason):
            named = ", ".join(each.node for each in nodes[:NAMED])
            more = f" and {count - NAMED} more" if count > NAMED else ""
            return f"{reason}: {named}{more}" if named else reason
        case EventRejected(reason=reason):
            return f"event {record.id} was rejected: {reason}"
        case _:
            assert_never(record.content)


def _lines_done(event: BatchProgressed | BatchFinished | BatchCancelled) -> str:
    return f"{_count(event.completed, 'line')} completed, {event.failed} failed"


def place(each: Assignment) -> str:
    """Return an assignment in words: `chat-0 on n1/0 (6.0 GiB)`."""
    devices = "+".join(map(str, each.devices))
    return f"{each.replica} on {each.node}/{devices} ({memory.text(each.memory)})"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _measured(event: ModelMeasured) -> str:
    if not event.weights:
        return f"{event.source} can't be measured" + _because(event.reason)
    cache = (
        f"its KV cache takes {memory.text(event.cache_per_token)} for each token"
        if event.cache_per_token
        else "it keeps no KV cache"
    )
    longest = (
        f"a request may have {event.context} tokens"
        if event.context
        else "it sets no limit to a request"
    )
    weights = memory.text(event.weights)
    return f"measured {event.source}: {weights} of weights, {cache}, {longest}"


def _alias(event: AliasRequested) -> str:
    whole = sum(target.weight for target in event.targets)
    parts = [f"{target.model!r} ({target.weight} of {whole})" for target in event.targets]
    mirror = f", mirrored to {event.mirror!r}" if event.mirror else ""
    return f"asked to be an alias of {', '.join(parts)}{mirror}"


def _load(event: ModelLoadRequested) -> str:
    parts = [f"asked to load {event.source} for {event.task}", _count(event.replicas, "replica")]
    return ", ".join([*parts, *settings(event)])


def _changed(record: Record, before: State) -> str:
    """Return what a load request changes, if the model was loaded already."""
    known = before.models.get(record.id)
    if known is None or known.unloading:
        return ""
    then = evolve(before, record)
    if record.seq in then.rejections:
        return ""
    lines = replaced(known, then.models[record.id])
    if not lines:
        return "; that changes nothing"
    return f"; that changes: {'; '.join(lines)}"


def _failed(event: EngineFailed, replica: Replica | None, before: State) -> str:
    again = "not tried again" if event.retry_in is None else restart(event, replica, before)
    code = "" if event.exit_code is None else f", exit code {event.exit_code}"
    return f"engine failed (attempt {event.attempt}{code}; {again}): {event.reason}"


def restart(event: EngineFailed, replica: Replica | None, before: State) -> str:
    """Return when an engine that failed is started again.

    Where another engine starts on its device, or goes first there, that is waited for too.
    """
    first = starts_before(before, replica) if replica is not None else None
    pause = f"{event.retry_in or 0:g} s"
    if first is None:
        return f"started again in {pause}"
    done = "ended" if first.retired else "started"
    return f"started again once {first.id} has {done}, in {pause} at the earliest"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _capture(event: CaptureStarted) -> str:
    chosen = ("model", event.model), ("key", event.key_id), ("tenant", event.tenant)
    of = " and ".join(f"{what} {name}" for what, name in chosen if name)
    return (
        f"capture of {event.share:.0%} of the requests of {of} for {event.seconds:.0f} s; "
        f"texts: {event.contents}"
    )
