"""What became of what is to go: a model or adapter, an engine, all of a node. Pure."""

from nebula.actors.placement.decision import replicas_on
from nebula.events.advised import command
from nebula.events.model_status import model_status
from nebula.events.state import State
from nebula.history.advice import advice
from nebula.history.outcome import Coming, Outcome, Progress, coming, ends, lives


def unloading(state: State, identity: str, seq: int) -> Outcome:
    """Return the progress of the unload that the event at `seq` requested."""
    if state.seq < seq:
        return Outcome(Progress.PENDING, f"waits to read event {seq} in the log")
    model = state.models.get(identity)
    if model is None:
        return Outcome(Progress.FULFILLED, f"{identity}: unloaded")
    if not model.unloading:
        return Outcome(Progress.IMPOSSIBLE, f"{identity} stays: it was requested again")
    left = list(state.replicas_of(model))
    awaited = tuple(
        Coming(f"{each.id} on {each.node} ends", each.node)
        for each in left
        if lives(state, each.node)
    )
    if not left:
        awaited = (Coming("its engines have ended, a router has yet to record that it is gone"),)
    if not awaited:
        return Outcome(Progress.IMPOSSIBLE, f"{identity} stays unloading. {advice(state, model)}")
    return Outcome(Progress.PENDING, "; ".join(each.what for each in awaited), coming=awaited)


def killing(state: State, identity: str, seq: int) -> Outcome:
    """Return whether the engine of a replica is gone that the event at `seq` asked to kill."""
    if state.seq < seq:
        return Outcome(Progress.PENDING, f"waits to read event {seq} in the log")
    replica = state.replicas.get(identity)
    if replica is None or replica.engine is None or replica.engine.killed != seq:
        return Outcome(Progress.FULFILLED, f"the engine of {identity} is killed")
    node = state.nodes.get(replica.node)
    if node is None or not lives(state, replica.node):
        return Outcome(Progress.IMPOSSIBLE, f"{replica.node} is away: it kills nothing now")
    if node.registered > seq:
        text = f"{replica.node} has started anew since, and killed nothing: ask again"
        return Outcome(Progress.IMPOSSIBLE, text)
    awaited = Coming(f"{replica.node} kills the engine of {identity}", replica.node)
    return Outcome(Progress.PENDING, awaited.what, coming=(awaited,))


def adapter_unloading(state: State, identity: str, adapter: str, seq: int) -> Outcome:
    """Return how far an adapter is off its model that the event at `seq` asked to unload."""
    if state.seq < seq:
        return Outcome(Progress.PENDING, f"waits to read event {seq} in the log")
    model = state.models.get(identity)
    if model is None or model.unloading:
        return Outcome(Progress.FULFILLED, f"{identity} is unloaded, and {adapter} with it")
    if adapter in model.adapters:
        return Outcome(
            Progress.IMPOSSIBLE, f"{adapter} stays on {identity}: it was requested again"
        )
    left = [
        each
        for each in state.replicas_of(model)
        if each.engine is not None
        and not each.retired
        and (status := each.adapters.get(adapter)) is not None
        and status.loaded
    ]
    awaited = tuple(
        Coming(f"{each.id} on {each.node} unloads {adapter}", each.node)
        for each in left
        if lives(state, each.node)
    )
    if awaited:
        return Outcome(Progress.PENDING, "; ".join(each.what for each in awaited), coming=awaited)
    text = f"{adapter} is unloaded from {identity}"
    if left:
        names = ", ".join(f"{each.id} on {each.node}" for each in left)
        text += f"; {names} will be without it once that node is back"
    return Outcome(Progress.FULFILLED, text)


def emptying(state: State, node: str) -> Outcome:
    """Return the progress of draining a node."""
    known = state.nodes.get(node)
    here = replicas_on(state, node) if known is not None else []
    if known is None or not here:
        return Outcome(Progress.FULFILLED, f"{node} is empty: nothing runs there")
    if not known.draining:
        return Outcome(Progress.IMPOSSIBLE, f"{node} takes replicas again, by a later request")
    if known.lost:
        text = f"{node} is lost: what runs there is unknown; its engines are ended once it is back"
        return Outcome(Progress.IMPOSSIBLE, text)
    awaited = tuple(Coming(ends(each), node) for each in here if each.retired)
    models = [state.models[each] for each in sorted({each.model for each in here})]
    for model in models:
        awaited += tuple(coming(state, model))
    names = ", ".join(each.id for each in here)
    if awaited:
        awaited = tuple(dict.fromkeys(awaited))
        what = "; ".join(each.what for each in awaited)
        return Outcome(Progress.PENDING, f"{node} still has {names}: {what}", coming=awaited)
    stuck = "; ".join(f"{each.id}: {model_status(state, each).detail}" for each in models)
    return Outcome(
        Progress.IMPOSSIBLE,
        stuck,
        f"{node} stays draining: what is left there ({names}) moves as soon as it can "
        f"({command('drain', node, '--undo')} takes it back)",
    )
