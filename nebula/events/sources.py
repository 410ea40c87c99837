"""What nodes have reported about a model's files: their presence, and measurements. Pure."""

from nebula.events.state import Model, Node, State


def is_folder(source: str) -> bool:
    """Return whether a source is a path on a node's disk, not a hub id."""
    return source.startswith("/")


def lacks(node: Node, source: str) -> str:
    """Return why a node can't serve a model from a folder, as it reported; empty if it can."""
    held = node.weights.get(source) if node.weights else None
    if held is None or held.whole or not held.reason or held.retry_in is not None:
        return ""
    if not is_folder(source):
        return ""
    return f"{node.id}: {held.reason}"


def lacked(state: State, source: str) -> bool:
    """Return whether every node has reported that it can't serve a folder."""
    if not is_folder(source) or not state.nodes:
        return False
    return all(lacks(node, source) for node in state.nodes.values())


def unmeasured(state: State, model: Model) -> bool:
    """Return whether a model waits for a node to measure how much memory it needs.

    It does not wait if no node measures, or once it has replicas of the same files that were placed
    without a request for memory either.
    """
    spec, launch = model.spec, model.launch
    if spec.memory is not None or model.measured is not None or not model.wanted:
        return False
    same = launch is not None and (launch.source, launch.memory) == (spec.source, None)
    if model.assignments and same:
        return False
    return any(node.measures and node.schedulable for node in state.nodes.values())
