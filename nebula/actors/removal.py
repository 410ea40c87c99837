"""Whether a node can be removed for good: it must not run, and have nothing that runs. Pure."""

from nebula.actors.placement.decision import replicas_on
from nebula.events.advised import command
from nebula.events.state import State

NAMED = 5
"""Replicas that a reason names, at most."""


def stays(state: State, node: str, lives: bool | None) -> str:
    """Return why a node can't be removed; empty if it can.

    `lives`: whether a process runs it; None if that is unknown.
    """
    known = state.nodes.get(node)
    if known is None:
        return f"there is no node {node!r}"
    if lives:
        return (
            f"node {node!r} runs: end its process first (Ctrl-C or SIGTERM), or it would register "
            "again; what it has moves before that with --drain"
        )
    if lives is None:
        return f"it is unknown whether node {node!r} runs: it does not answer; try again"
    return occupied(state, node)


def occupied(state: State, node: str) -> str:
    """Return what still counts on a node; empty on one that is lost or stopped too."""
    known = state.nodes.get(node)
    here = replicas_on(state, node) if known is not None and not known.away else []
    if not here:
        return ""
    names = ", ".join(replica.id for replica in here[:NAMED])
    names += f" and {len(here) - NAMED} more" if len(here) > NAMED else ""
    return (
        f"node {node!r} has {names}: {command('drain', node)} moves them while it runs; once it is "
        "stopped or lost they are placed elsewhere, and it can be removed"
    )
