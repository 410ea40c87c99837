"""Recognises requests that may crash engines: several engines failed with them in a row. Pure.

What counts is how many *different* processes failed. A gateway learns of one failure in several
ways: from the engine itself, from the log that has its end, and from the start of the next one.
"""

from collections.abc import Iterator
from typing import TypeAlias

from nebula.events.state import Model, Replica, State

MAX_FATAL = 2
"""Engines that may fail in a row with a request, without an answer, before it is given up."""

Process: TypeAlias = tuple[str, int]
"""A replica's id, and when its engine was started; when it failed, if that is not known (ns, of the
log)."""


def failed_since(before: State, state: State, model: str) -> frozenset[Process]:
    """Return the model's processes that served in `before` and have failed by now.

    If no replica has confirmed a request, it may have been at any of them.
    """
    known = before.models.get(model)
    if known is None or state.seq == before.seq:
        return frozenset()
    return frozenset(_failed(before, state, known))


def failed(before: State, state: State, replica: str) -> frozenset[Process]:
    """Return the process that had a request, if it is gone because it failed.

    A process that was stopped or replaced, or was lost with its node, has not failed.
    """
    earlier, later = before.replicas.get(replica), state.replicas.get(replica)
    if earlier is not None and earlier.engine is not None:
        return frozenset({_process(earlier)} if _has_failed(earlier, state) else ())
    if later is None or later.engine is not None or later.phase != "failed":
        return frozenset()
    return frozenset({(replica, later.since)})  # it came and went meanwhile


def speaking(before: State, state: State, replica: str) -> Process:
    """Return the process of a replica that says that it has failed.

    Its end may be in the log already, and another process started: that one is not ready yet.
    """
    earlier, now = before.replicas.get(replica), state.replicas.get(replica)
    if now is not None and now.engine is not None and now.phase == "ready":
        return _process(now)
    return _process(earlier) if earlier is not None else (replica, 0)


def _failed(before: State, state: State, model: Model) -> Iterator[Process]:
    for identity in model.replicas:
        earlier = before.replicas.get(identity)
        if earlier is not None and earlier.phase == "ready" and _has_failed(earlier, state):
            yield _process(earlier)


def _has_failed(earlier: Replica, state: State) -> bool:
    later = state.replicas.get(earlier.id)
    if later is None or earlier.engine is None:
        return False
    if later.engine is None:
        return later.phase == "failed"
    # The log had its failure meanwhile, unless it was replaced for a newer plan.
    return (
        later.engine.started != earlier.engine.started
        and later.engine.version == earlier.engine.version
    )


def _process(replica: Replica) -> Process:
    return replica.id, replica.engine.started if replica.engine is not None else 0
