"""What an operator should do about a model that is not well: one sentence. Pure."""

from nebula.actors.placement.planning import plan
from nebula.events import memory
from nebula.events.engine_options import devices_needed
from nebula.events.standing import standing
from nebula.events.state import Model, Replica, State


def advice(state: State, model: Model) -> str:
    """Say what to do so that all wanted replicas of a model serve; empty where they do."""
    stands = standing(state, model)
    if model.unloading:
        return _unloading(state, model)
    if model.asleep:
        return ""
    if model.wanted == 0:
        return f"Give it replicas: `nebula scale {model.id} 1`."
    if stands.ready == stands.wanted and not (stands.changing and model.unschedulable):
        return ""
    if model.intent > model.answered:
        return "Start a router (`nebula router`): nobody has decided yet where it goes."
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    failed = next((each for each in replicas if each.given_up), None)
    if failed is not None:
        return (
            f"Mend what the engine says (`nebula logs {failed.id}` has all of it), "
            f"then ask for it again: `nebula scale {model.id} {model.wanted}`."
        )
    if model.unschedulable:
        return _unschedulable(state, model)
    for replica in replicas:
        if not replica.serving:
            return _replica(state, replica)
    return ""


def _replica(state: State, replica: Replica) -> str:
    node = state.nodes.get(replica.node)
    if node is None or node.lost:
        return f"Start `nebula node --name {replica.node}` on its machine again."
    if replica.phase == "failed":
        return (
            f"Wait: {replica.node} tries {replica.id} again; "
            f"`nebula logs {replica.id}` says what went wrong."
        )
    if replica.phase == "starting":
        return f"Wait: its engine is loading; `nebula logs -f {replica.id}` shows how far it is."
    return (
        f"Wait for {replica.node} to start {replica.id}; if it does not, "
        f"see that `nebula node --name {replica.node}` runs there."
    )


def _unschedulable(state: State, model: Model) -> str:
    planned = plan(state, model, tell=True)
    if not planned.choices:
        return "Wait: there is room for it now, and a router will place it."
    found = planned.choices[-1].candidates
    if not found or not found[0].unfit:
        return (
            "Start a machine that takes it: `nebula node`."
            if not found
            else "Wait: there is room for it now, and a router will place it."
        )
    # The nearest to being taken come first.
    match found[0].lack:
        case "place" | "label" | "devices":
            return _nowhere(model, found[0].lack)
        case "open":
            return (
                "Start another `nebula node`, one of the lost ones again, or undo a drain "
                "(`nebula drain NODE --undo`): none that suits takes replicas now."
            )
    roomiest = max((each for each in found if each.lack == "room"), key=lambda each: each.room)
    if roomiest.room >= roomiest.need:
        return f"Add a node that it may be on: {roomiest.unfit}."
    return (
        f"Add a node with a device that has {memory.text(roomiest.need)} to give, unload something "
        f"from {roomiest.name}, or load it again with --memory {_offer(roomiest.room)} or less."
        if roomiest.room > 0
        else f"Add a node with a device that has {memory.text(roomiest.need)} to give, "
        f"or unload something from {roomiest.name}."
    )


def _nowhere(model: Model, lack: str) -> str:
    spec = model.spec
    if lack == "place":
        return f"Start `nebula node --name {spec.node}`, or load it again without --node."
    if lack == "label":
        labels = " ".join(f"--label {key}={value}" for key, value in sorted(spec.labels.items()))
        return f"Start a node that carries it (`nebula node {labels}`), or load it again without."
    if spec.devices:
        return f"Load it again with a --device that {spec.node} has."
    count = devices_needed(spec.options)
    return f"Add a node with {count} GPUs, or load it again with a smaller --tensor-parallel."


def _offer(room: int) -> str:
    """Write a size that is not above `room`: rounding up would not fit."""
    tenths = room * 10 // memory.GIB
    return f"{tenths // 10}.{tenths % 10}GiB" if tenths else f"{room // 2**20}MiB"


def _unloading(state: State, model: Model) -> str:
    for replica in state.replicas_of(model):
        node = state.nodes.get(replica.node)
        if node is None or node.lost:
            return (
                f"Start `nebula node --name {replica.node}` on its machine again, so that it can "
                f"end {replica.id}, or publish NodeDeregistered for it."
            )
    return "Wait: its engines are ending."
