"""Which requests may be what ends engines: those with which several failed in a row. Pure."""

from nebula.events.state import State

MAX_FATAL = 2
"""Engines in a row that may fail with a request, and say nothing, before no other gets it."""


def ended_since(state: State, model: str, time: int) -> bool:
    """Return whether an engine of a model has failed, or another has taken its place, since `time`.

    `time`: of the log, in ns. Where no replica has said that it has a request, that is where
    it may have been.
    """
    known = state.models.get(model)
    if known is None or state.time == time:
        return False
    return any(
        replica.since > time if replica.engine is None else replica.engine.started > time
        for replica in state.replicas_of(known)
        if replica.phase not in ("assigned", "stopped")
    )
