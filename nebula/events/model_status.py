"""The state of a model in one word and one sentence, for people. Pure."""

import signal
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events import memory
from nebula.events.alike import together
from nebula.events.drift import stale
from nebula.events.sources import is_folder, unmeasured
from nebula.events.start_order import goes_before
from nebula.events.state import Model, Node, Replica, State, launch_of

Phase: TypeAlias = Literal[
    "ready", "loading", "failed", "unschedulable", "unloading", "idle", "asleep"
]


FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
)
"""Signals that nothing in an engine brings about."""


class ModelStatus(Struct, frozen=True):
    """`ready` of `wanted` replicas serve; `detail` describes the others.

    `changing` replicas are outdated and are to be replaced.
    """

    phase: Phase
    ready: int
    wanted: int
    detail: str = ""
    changing: int = 0


def model_phase(state: State, model: Model) -> tuple[Phase, int, int]:
    """Return the phase of a model, and how many of how many wanted replicas serve."""
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    wanted = model.wanted
    if model.unloading:
        return "unloading", 0, 0
    if ready := min(sum(replica.serving for replica in replicas), wanted):
        return "ready", ready, wanted
    if model.asleep:
        return "asleep", 0, 0
    if wanted == 0:
        return "idle", 0, 0
    if replicas and all(replica.given_up for replica in replicas):
        return "failed", 0, wanted
    if model.unschedulable and not replicas:
        return "unschedulable", 0, wanted
    return "loading", 0, wanted


def model_status(state: State, model: Model, now: int | None = None) -> ModelStatus:
    """Return the state of a model: ready if any replica serves, failed if none will by itself.

    `now`: nanoseconds since the epoch. Without it the sentence is one that stays true as time goes.
    """
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    phase, ready, wanted = model_phase(state, model)
    launch = launch_of(model)
    whys = {replica.id: stale(state, model, replica, launch) for replica in replicas}
    changing = sum(map(bool, whys.values()))
    details = together(
        (where := f"{replica.id} on {replica.node}", text.removeprefix(where))
        for replica in replicas
        if (text := replica_detail(state, replica, whys[replica.id], now))
    )
    if model.unschedulable and len(model.assignments) >= wanted:
        details.append(model.unschedulable)
    elif model.unschedulable:
        details.append(f"{model.missing} of {wanted} replicas not placed: {model.unschedulable}")
    if model.rolled_back:
        details.append(f"rolled back to what last worked: {model.rolled_back}")
    detail = "; ".join(details)
    match phase:
        case "unloading":
            left = sum(1 for _ in state.replicas_of(model))
            engines = "1 engine is" if left == 1 else f"{left} engines are"
            detail = f"{engines} still ending" if left else "nothing runs"
        case "asleep":
            detail = "it sleeps until the next request"
        case "idle":
            detail = "it is scaled to 0 replicas"
        case "loading" if not detail:
            detail = (
                "a node measures how much memory it needs"
                if unmeasured(state, model)
                else "it waits for a router to place it"
            )
    told = phase in ("unloading", "asleep", "idle")
    return ModelStatus(phase, ready, wanted, detail, 0 if told else changing)


def replica_detail(state: State, replica: Replica, why: str = "", now: int | None = None) -> str:
    """Return the state of a replica; empty if it serves. `why`: the reason to replace it.

    `now`: as for `model_status`.
    """
    where = f"{replica.id} on {replica.node}"
    node = state.nodes.get(replica.node)
    if node is not None and node.lost and replica.engine is not None:
        return f"{where} was {replica.phase} when {node.id} was lost: its current state is unknown"
    if replica.serving:
        return stands_still(replica, now) or (
            f"{where} serves, and is replaced once a new replica serves: {why}" if why else ""
        )
    match replica.phase:
        case "assigned" | "stopped":
            return f"{where} {_waits(state, node, replica, now)}"
        case "starting":
            before = failed_before(replica)
            before = f"; the attempt before failed: {before}" if before else ""
            return f"{where} is starting (attempt {replica.attempt}){before}"
        case "failed" if replica.given_up:
            attempts = "1 attempt" if replica.attempt == 1 else f"{replica.attempt} attempts"
            return f"{where} gave up after {attempts}: {replica.reason}"
        case "failed" if node is not None and node.stopped:
            return (
                f"{where} waits for {node.id}, which was stopped; it had failed: {replica.reason}"
            )
        case "failed":
            when = f"attempt {replica.attempt}, {_again(state, replica, now)}"
            return f"{where} failed ({when}): {replica.reason}"
        case "ready":
            return f"{where} is being replaced"


def failed_before(replica: Replica) -> str:
    """Return why the previous attempt failed; "" for a first attempt.

    With a first attempt, the reason of a replica is why an earlier engine ended.
    """
    return replica.reason if replica.phase == "starting" and replica.attempt > 1 else ""


def ended_from_outside(replica: Replica) -> bool:
    """Return whether a replica's last engine ended by a signal that nothing in it brings about.

    A shell that starts an engine answers with 128 and the signal's number.
    """
    code = replica.exit_code
    if code is None:
        return False
    return (-code if code < 0 else code - 128) in FROM_OUTSIDE


def _again(state: State, replica: Replica, now: int | None) -> str:
    """Return when a replica is started again that failed, or what its start waits for."""
    first = starts_before(state, replica)
    if first is not None:
        return f"it waits {_after(first, replica, now)}"
    return f"again {_in(replica.retry_in or 0.0, replica.since, now)}"


def _in(pause: float, since: int, now: int | None) -> str:
    """Return when something is due, `pause` seconds after `since` (ns), for a reader at `now`."""
    due = since + int(pause * 1e9)
    if not pause or (now is not None and now >= due):
        return "now"
    if now is None:
        return f"after a pause of {pause:g} s"
    return f"in {(due - now) / 1e9:.0f} s, at {_clock(due)}"


def stands_still(replica: Replica, now: int | None = None) -> str:
    """Return since when a ready replica's engine has stalled, and what follows; else ""."""
    engine = replica.engine
    if engine is None or not engine.stalled:
        return ""
    ends = (
        f"its node ends it at {_clock(engine.ends)} unless it goes on"
        if engine.ends
        else ("its node does not end it (--stall-limit 0)")
    )
    if engine.ends and now is not None and now >= engine.ends:
        ends = "its node ends it now unless it goes on"
    return (
        f"{replica.id} on {replica.node} has {_count(engine.stuck)} and has made no progress "
        f"since {_clock(engine.stalled)}; it gets no new ones, and {ends}"
    )


def _count(requests: int) -> str:
    return "1 request" if requests == 1 else f"{requests} requests"


def _clock(time: int) -> str:
    """Return a time of the log, in nanoseconds, as hours, minutes and seconds."""
    return f"{datetime.fromtimestamp(time / 1e9, UTC):%H:%M:%S} UTC"


def _waits(state: State, node: Node | None, replica: Replica, now: int | None) -> str:
    """Return what a replica without an engine waits for: its files, or another engine's start."""
    if node is None:
        return f"waits for {replica.node}, which has left"
    if node.lost:
        return f"waits for {node.id}, which is lost"
    if node.stopped:
        return f"waits for {node.id}, which was stopped"
    fetching = fetches(node, replica, now)
    if fetching:
        return fetching
    first = starts_before(state, replica)
    return f"waits {_after(first, replica, now)}" if first is not None else "waits to be started"


def _after(first: Replica, replica: Replica, now: int | None) -> str:
    """Return after what of another replica's this one starts, and since when that is under way."""
    shared = sorted(set(first.devices) & set(replica.devices))
    device = f"{replica.node}/{shared[0]}" if shared else replica.node
    if first.retired:
        return f"until {first.id} has ended on {device}"
    if first.engine is None:
        return (
            f"until {first.id} has started on {device}: one engine starts there at a time, and "
            "one that served before goes first"
        )
    began = first.engine.started
    long = f"since {_clock(began)}" if now is None else f"for {max(0, now - began) / 1e9:.0f} s"
    return (
        f"until {first.id} has started on {device}, which is under way {long}: one engine "
        "starts there at a time"
    )


def fetches(node: Node, replica: Replica, now: int | None = None) -> str:
    """Return the progress of a replica's download, or why it failed; "" if there is neither.

    `now`: as for `model_status`.
    """
    source = replica.launch.source if replica.launch is not None else ""
    held = node.weights.get(source)
    if held is not None and held.waits:
        before = f"; the attempt before failed: {held.reason}" if held.reason else ""
        return f"{held.waits} since {_clock(held.since)}{before}"
    if held is None or held.whole or not (held.total or held.reason):
        return ""
    if held.reason and held.retry_in is None and is_folder(source):
        return f"can't be started there: {held.reason}"
    if held.reason:
        again = "" if held.retry_in is None else f" (again {_in(held.retry_in, held.since, now)})"
        return f"could not fetch {source}{again}: {held.reason}"
    share = 100 * held.done // held.total
    return f"is fetching {source}: {memory.text(held.done)} of {memory.text(held.total)}, {share} %"


def starts_before(state: State, replica: Replica) -> Replica | None:
    """Return the replica on the same devices for which this one waits.

    That is one which starts there, or which still ends, or else one which goes first.
    """
    held = state.occupancy.get(replica.node)
    others = [
        other
        for identity in (sorted(held.replicas) if held is not None else ())
        if identity != replica.id
        and set((other := state.replicas[identity]).devices) & set(replica.devices)
    ]
    for other in others:
        if other.phase == "starting" or (other.retired and other.engine is not None):
            return other
    node = state.nodes.get(replica.node)
    for other in others:
        if goes_before(other, replica) and not (node is not None and fetches(node, other)):
            return other
    return None


def loading_seconds(state: State, model: Model, now: int) -> float:
    """Return how long the model's oldest start has taken so far, in seconds; `now` in ns."""
    starts = [
        replica.engine.started
        for replica in state.replicas_of(model)
        if replica.phase == "starting" and replica.engine is not None
    ]
    return max(0.0, (now - min(starts)) / 1e9) if starts else 0.0
