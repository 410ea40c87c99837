"""How a model stands, in one word and one sentence for people. Pure."""

from datetime import UTC, datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events import memory
from nebula.events.index import stale, unmeasured
from nebula.events.state import Model, Node, Replica, State, launch_of

Word: TypeAlias = Literal[
    "ready", "loading", "failed", "unschedulable", "unloading", "idle", "asleep"
]


class Standing(Struct, frozen=True):
    """`ready` of `wanted` replicas serve; `detail` says what is with the others.

    `changing` replicas are not as they are wanted now: others are to replace them.
    """

    word: Word
    ready: int
    wanted: int
    detail: str = ""
    changing: int = 0


def standing(state: State, model: Model) -> Standing:
    """Judge a model: ready when any replica serves, failed when none ever will by itself."""
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    wanted = model.wanted
    ready = min(sum(replica.serving for replica in replicas), wanted)
    launch = launch_of(model)
    whys = {replica.id: stale(state, model, replica, launch) for replica in replicas}
    changing = sum(map(bool, whys.values()))
    details = [text for replica in replicas if (text := _replica(state, replica, whys[replica.id]))]
    if model.unschedulable and len(model.assignments) >= wanted:
        details.append(model.unschedulable)
    elif model.unschedulable:
        details.append(f"{model.missing} of {wanted} replicas not placed: {model.unschedulable}")
    if model.rolled_back:
        details.append(f"rolled back to what last worked: {model.rolled_back}")
    if model.unloading:
        left = sum(1 for _ in state.replicas_of(model))
        engines = "1 engine is" if left == 1 else f"{left} engines are"
        return Standing("unloading", 0, 0, f"{engines} still ending" if left else "nothing runs")
    detail = "; ".join(details)
    if ready:
        return Standing("ready", ready, wanted, detail, changing)
    if model.asleep:
        return Standing("asleep", 0, 0, "it sleeps until somebody asks for it")
    if wanted == 0:
        return Standing("idle", 0, 0, "it is scaled to 0 replicas")
    if replicas and all(replica.given_up for replica in replicas):
        return Standing("failed", 0, wanted, detail, changing)
    if model.unschedulable and not replicas:
        return Standing("unschedulable", 0, wanted, detail, changing)
    waits = (
        "a node looks how much memory it needs"
        if unmeasured(state, model)
        else "it waits for a router to place it"
    )
    return Standing("loading", 0, wanted, detail or waits, changing)


def _replica(state: State, replica: Replica, why: str) -> str:
    """Say what is with a replica; empty for one that serves. `why` another one replaces it."""
    where = f"{replica.id} on {replica.node}"
    node = state.nodes.get(replica.node)
    if node is not None and node.lost and replica.engine is not None:
        return f"{where} was {replica.phase} when {node.id} was lost: how it is nobody knows"
    if replica.serving:
        return stands_still(replica) or (
            f"{where} serves until another one does: {why}" if why else ""
        )
    match replica.phase:
        case "assigned" | "stopped":
            return f"{where} {_waits(state, node, replica)}"
        case "starting":
            return f"{where} is starting (attempt {replica.attempt})"
        case "failed" if replica.given_up:
            return f"{where} gave up after {replica.attempt} attempts: {replica.reason}"
        case "failed":
            again = f"again in {replica.retry_in:.0f} s" if replica.retry_in else "again now"
            return f"{where} failed (attempt {replica.attempt}, {again}): {replica.reason}"
        case "ready":
            return f"{where} is being replaced"


def stands_still(replica: Replica) -> str:
    """Say since when a ready replica's engine stands still, and what follows; empty where not."""
    engine = replica.engine
    if engine is None or not engine.stalled:
        return ""
    ends = f"its node ends it at {_clock(engine.ends)}" if engine.ends else "nobody ends it"
    return (
        f"{replica.id} on {replica.node} stands still since {_clock(engine.stalled)} with "
        f"{engine.stuck} requests and gets no new ones; {ends} unless it makes progress"
    )


def _clock(time: int) -> str:
    """Write a time (ns) of the log as a clock's."""
    return f"{datetime.fromtimestamp(time / 1e9, UTC):%H:%M:%S} UTC"


def _waits(state: State, node: Node | None, replica: Replica) -> str:
    """Return what a replica without an engine waits for: its files, or another engine's start."""
    source = replica.launch.source if replica.launch is not None else ""
    held = node.weights.get(source) if node is not None else None
    if held is None or held.whole or not (held.total or held.reason):
        first = starts_before(state, replica)
        if first is None:
            return "waits to be started"
        device = f"{replica.node}/{first.devices[0]}" if first.devices else replica.node
        return f"waits until {first.id} has started on {device}: one starts there at a time"
    if held.reason:
        again = "" if held.retry_in is None else f" (again in {held.retry_in:.0f} s)"
        return f"could not fetch {source}{again}: {held.reason}"
    share = 100 * held.done // held.total
    return f"is fetching {source}: {memory.fine(held.done)} of {memory.fine(held.total)}, {share} %"


def starts_before(state: State, replica: Replica) -> Replica | None:
    """Return the replica whose start on the same devices this one waits for."""
    held = state.occupancy.get(replica.node)
    for identity in sorted(held.replicas) if held is not None else ():
        other = state.replicas[identity]
        same = set(other.devices) & set(replica.devices)
        if identity != replica.id and other.phase == "starting" and same:
            return other
    return None


def loading_seconds(state: State, model: Model, now: int) -> float:
    """Give for how long (s) the model's oldest start has been under way; `now` in ns."""
    starts = [
        replica.engine.started
        for replica in state.replicas_of(model)
        if replica.phase == "starting" and replica.engine is not None
    ]
    return max(0.0, (now - min(starts)) / 1e9) if starts else 0.0
