"""The outcome of a request for a model: fulfilled, still coming, or impossible. Pure.

A command that waits must not use a state from before the request's event, and must not wait for
what can't come: a replica that was given up, a lost node, a place that does not exist.
"""

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from nebula.actors.placement.decision import due
from nebula.events.advised import command, why
from nebula.events.intents import ModelLoadRequested
from nebula.events.model_status import ModelStatus, model_status, replica_detail
from nebula.events.sources import lacked, unmeasured
from nebula.events.state import CachedSource, Model, Replica, State, launch_of
from nebula.history.adapter_outcome import awaits, in_vain, lacking, with_adapters


class Progress(StrEnum):
    """How far a request is."""

    PENDING = "pending"
    """It can still be fulfilled by itself."""
    FULFILLED = "fulfilled"
    IMPOSSIBLE = "impossible"
    """It is not fulfilled without a further request or an operator."""


class Asked(Struct, frozen=True):
    """A request for a model, recorded as the event at `seq`, at `time` (ns).

    `spec` is the model's request at that time; `adapter` is set if the request was for that adapter
    alone. `rolled_back` is the reason of an earlier rollback, which is not news. `version` is the
    digest of the adapter's previous version.
    """

    model: str
    seq: int
    time: int
    spec: ModelLoadRequested | None = None
    adapter: str = ""
    rolled_back: str = ""
    version: str = ""


class Coming(Struct, frozen=True):
    """Something that will happen by itself, and the actor that does it: a node or router."""

    what: str
    node: str = ""


class Outcome(Struct, frozen=True):
    """The state of a request in words (`text`), and what helps if it can't be fulfilled (`todo`).

    `coming` is what is still awaited, `troubles` is what went wrong so far.
    """

    progress: Progress
    text: str
    todo: str = ""
    coming: tuple[Coming, ...] = ()
    troubles: tuple[str, ...] = ()


def asked(
    state: State, model: str, seq: int, adapter: str = "", before: State | None = None
) -> Asked:
    """Return the request that was recorded as the event at `seq`, which `state` has just folded.

    `before`: the state before that event.
    """
    known = state.models.get(model)
    then = before.models.get(model) if before is not None else None
    offer = then.offers.get(adapter) if then is not None else None
    version = offer.digest if offer is not None else ""
    if known is None:
        return Asked(model, seq, state.time, adapter=adapter)
    return Asked(model, seq, state.time, known.spec, adapter, known.rolled_back, version)


def outcome(state: State, wish: Asked, waited: bool = False) -> Outcome:
    """Return the outcome of a request in `state`; `waited`: a node was seen working on it."""
    if state.seq < wish.seq:
        return _coming(f"waits to read event {wish.seq} in the log", ())
    model = state.models.get(wish.model)
    if model is None:
        return Outcome(Progress.IMPOSSIBLE, f"{wish.model} was unloaded by a later request")
    if model.unloading:
        return Outcome(Progress.IMPOSSIBLE, f"{model.id} is being unloaded by a later request")
    troubles = tuple(_troubles(state, model))
    awaited = tuple(coming(state, model))
    if any(each.node for each in awaited) and not wish.adapter:
        troubles = (*_given_up(state, model), *troubles)
    if awaited:
        return _coming("; ".join(each.what for each in awaited), awaited, troubles)
    stands = model_status(state, model)
    if model.rolled_back and model.rolled_back != wish.rolled_back:
        serve = f"{stands.ready} of {stands.wanted} replicas serve as before"
        text = f"{model.id} was rolled back to what last worked: {model.rolled_back}; {serve}"
        return Outcome(Progress.IMPOSSIBLE, text, troubles=troubles)
    if wish.spec is not None and model.spec != wish.spec:
        text = f"{model.id} is {stands.phase}, but not as this command asked"
        return Outcome(
            Progress.IMPOSSIBLE,
            f"{text}: event {model.requested_seq} asked for something else since",
            troubles=troubles,
        )
    if wish.adapter and (vain := in_vain(model, wish.adapter, wish.seq)):
        return Outcome(Progress.IMPOSSIBLE, vain, _why(wish.adapter), (), _others(troubles, vain))
    names = [wish.adapter] if wish.adapter else sorted(model.adapters)
    if lacks := lacking(state, model, names, wish.seq):
        todo, text = _why(wish.adapter or model.id), f"{model.id} is incomplete: {lacks}"
        return Outcome(Progress.IMPOSSIBLE, text, todo, (), _others(troubles, lacks))
    if stands.ready == stands.wanted and not stands.changing:
        return Outcome(
            Progress.FULFILLED, _there(state, model, stands, wish, waited), troubles=troubles
        )
    if wish.adapter and stands.ready:
        text = f"{_there(state, model, stands, wish, waited)}; {stands.detail}"
        return Outcome(Progress.FULFILLED, text, _why(model.id), (), troubles)
    return _not_as_asked(state, model, stands, troubles)


def _others(troubles: tuple[str, ...], text: str) -> tuple[str, ...]:
    """Return the troubles whose reasons a text does not tell by itself."""
    return tuple(each for each in troubles if each.rpartition(": ")[2] not in text)


def _coming(text: str, awaited: tuple[Coming, ...], troubles: tuple[str, ...] = ()) -> Outcome:
    return Outcome(Progress.PENDING, text, "", awaited, troubles)


def _not_as_asked(
    state: State, model: Model, stands: ModelStatus, troubles: tuple[str, ...]
) -> Outcome:
    how = f"is {stands.phase}"
    if stands.ready:
        how = f"is not as requested, {stands.ready} of {stands.wanted} replicas serve"
    stays = ""
    if lacked(state, model.spec.source):
        stays = "It is not started before a node finds a model there. "
    elif model.unschedulable:
        stays = "It is started as soon as there is a place for it. "
    text = f"{model.id} {how}: {stands.detail}"
    return Outcome(Progress.IMPOSSIBLE, text, stays + _why(model.id), (), troubles)


def _why(name: str) -> str:
    return f"{why(name)} tells what to do."


# What will still happen


def coming(state: State, model: Model) -> Iterator[Coming]:
    """Yield what will still happen to a model without another request.

    If nothing is yielded, its state is expected to stay as it is.
    """
    if model.requested_seq > model.planned_seq:
        waits = "waits for a router to place it"
        if unmeasured(state, model):
            waits = "waits for a node to measure how much memory it needs"
        yield Coming(f"{model.id} {waits}")
        return
    found = [*_starting(state, model), *_adapting(state, model), *_ending(state, model)]
    yield from found
    if not found and due(state, model) is not None:
        yield Coming(f"{model.id} waits for a router's decision")


def _starting(state: State, model: Model) -> Iterator[Coming]:
    """Yield the replicas that a node may still start."""
    for replica in state.replicas_of(model):
        if replica.retired or replica.given_up or replica.serving or not lives(state, replica.node):
            continue
        yield Coming(replica_detail(state, replica), replica.node)


def _adapting(state: State, model: Model) -> Iterator[Coming]:
    """Yield the adapters that are not reported on yet, replica by replica."""
    for replica in state.replicas_of(model):
        if not replica.serving or not lives(state, replica.node):
            continue
        left = sorted(name for name in model.adapters if awaits(model, replica, name))
        if left:
            yield Coming(f"{replica.id} loads {', '.join(left)}", replica.node)


def _ending(state: State, model: Model) -> Iterator[Coming]:
    """Yield the replicas that are to end because fewer are wanted, and have not ended yet.

    Replaced replicas also end once their requests do; a command need not wait for them.
    """
    launch = launch_of(model)
    for replica in state.replicas_of(model):
        if replica.retired and replica.launch == launch and lives(state, replica.node):
            yield Coming(ends(replica), replica.node)


def ends(replica: Replica) -> str:
    """Return how a replica ends that is wanted no more: one that never served has no requests."""
    where = f"{replica.id} on {replica.node}"
    if replica.phase == "ready":
        return f"{where} finishes its requests and ends"
    return f"{where}, which was still starting, ends"


def lives(state: State, node: str) -> bool:
    """Return whether a node is known to run: a lost or stopped node does nothing by itself."""
    known = state.nodes.get(node)
    return known is not None and not known.away


# The final state


def _troubles(state: State, model: Model) -> Iterator[str]:
    """Yield what went wrong, in words that are the same for every try."""
    for replica in state.replicas_of(model):
        where = f"{replica.id} on {replica.node}"
        if replica.retired:
            continue
        if replica.phase == "failed" and not replica.given_up:
            yield f"{where} failed and is tried again: {replica.reason}"
        held = _files(state, replica)
        if held is not None and held.reason and held.retry_in is not None:
            yield f"{replica.node} could not fetch its files and tries again: {held.reason}"
        for name in sorted(model.adapters):
            status = replica.adapters.get(name)
            if status is not None and status.reason and not awaits(model, replica, name):
                yield f"adapter {name} could not be loaded: {where}: {status.reason}"


def _given_up(state: State, model: Model) -> Iterator[str]:
    """Yield the replicas that are not tried again, while others may still start."""
    for replica in state.replicas_of(model):
        if replica.given_up and not replica.retired:
            where = f"{replica.id} on {replica.node}"
            yield f"{where} failed and is not tried again: {replica.reason}"


def _files(state: State, replica: Replica) -> CachedSource | None:
    """Return the state of the files that a replica waits for."""
    node = state.nodes.get(replica.node)
    if node is None or replica.launch is None or replica.engine is not None:
        return None
    return node.weights.get(replica.launch.source)


def _there(state: State, model: Model, stands: ModelStatus, wish: Asked, waited: bool) -> str:
    text = f"{model.id} is {stands.phase}: "
    if not stands.wanted:
        return text + _what_starts(model)
    text += f"{stands.ready} of {stands.wanted} replicas{_after(state, model, wish, waited)}"
    return text + with_adapters(model, wish.adapter, wish.version)


def _what_starts(model: Model) -> str:
    """Return what would start the engines of a model that has none by request."""
    if model.asleep or model.spec.autoscale is not None:
        return "it has no engine until the first request for it comes"
    return f"it has 0 replicas, {command('scale', model.id, '1')} starts one"


def _after(state: State, model: Model, wish: Asked, waited: bool) -> str:
    """Return how long a request took; the command may look later than it was fulfilled.

    A plan also changes replicas that it keeps. So only replicas count that changed after it, or
    that were started after the request.
    """
    came = [
        replica.since
        for replica in state.replicas_of(model)
        if replica.serving
        and replica.engine is not None
        and (replica.changed > model.changed or replica.engine.started > wish.time)
    ]
    last = max(came, default=state.time if waited else 0)
    return f" after {(last - wish.time) / 1e9:.0f} s" if last > wish.time else " already"
