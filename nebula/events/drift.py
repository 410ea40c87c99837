"""When a replica should be replaced: how it differs from what is wanted, or can't stay. Pure."""

from nebula.events.intents import ModelLoadRequested
from nebula.events.sources import lacks
from nebula.events.state import Launch, Model, Node, Replica, State
from nebula.events.values import Assignment


def housed(state: State, place: Assignment) -> bool:
    """Return whether a place still exists: its node is known, not lost, and has its devices.

    The devices must also be as large as the plan assumed.
    """
    node = state.nodes.get(place.node)
    return node is not None and houses(node, place)


def houses(node: Node, place: Assignment) -> bool:
    """Return whether a node that is not lost has the devices of a place, as large as promised."""
    if node.lost:
        return False
    for index in place.devices:
        for device in node.devices:
            if device.index == index:
                if place.memory > device.memory:
                    return False
                break
        else:
            return False
    return True


def stale(state: State, model: Model, replica: Replica, launch: Launch) -> str:
    """Return why another replica must replace this one; "" if it is up to date.

    `launch` is what the model's engines are started with now.
    """
    return outdated(state, replica, launch) or misplaced(state, model, replica)


def outdated(state: State, replica: Replica, launch: Launch) -> str:
    """Return why its engine must be restarted; empty if it need not be."""
    return out_of_date(state.nodes.get(replica.node), replica, launch)


def out_of_date(node: Node | None, replica: Replica, launch: Launch) -> str:
    """As `outdated`, for a caller that has looked up the replica's node."""
    if replica.launch != launch:
        return "its engine was started before the last change of its model"
    engine = replica.engine
    if engine is None or node is None or engine.version != replica.version:
        return ""
    if engine.installed and node.engine_version and engine.installed != node.engine_version:
        return f"{node.id} has vLLM {node.engine_version} now, and it runs {engine.installed}"
    return ""


def misplaced(state: State, model: Model, replica: Replica) -> str:
    """Return why a replica may not stay where it is; empty if it may."""
    return out_of_place(state.nodes.get(replica.node), model, replica)


def out_of_place(node: Node | None, model: Model, replica: Replica) -> str:
    """As `misplaced`, for a caller that has looked up the replica's node."""
    if node is None:
        return ""
    if model.moving and replica.id in model.moving:
        return "it was asked to move to another node"
    if node.stopped:
        return f"{node.id} was stopped"
    if node.draining:
        return f"{node.id} is draining"
    wrong = unsuited(model.spec, node)
    if replica.engine is None and not wrong:
        wrong = lacks(node, model.spec.source)
    if not wrong and model.spec.devices and not set(replica.devices) <= set(model.spec.devices):
        return f"its model is to be on device {' or '.join(map(str, model.spec.devices))}"
    return wrong


def unsuited(spec: ModelLoadRequested, node: Node) -> str:
    """Return what a node lacks for a load request; empty if it lacks nothing."""
    if spec.node and spec.node != node.id:
        return f"{node.id} is not {spec.node}, the node that was asked for"
    if not spec.labels:
        return ""
    lacking = [f"{key}={value}" for key, value in spec.labels.items() if not _has(node, key, value)]
    return f"{node.id} does not carry {', '.join(sorted(lacking))}" if lacking else ""


def _has(node: Node, key: str, value: str) -> bool:
    return node.labels.get(key) == value
