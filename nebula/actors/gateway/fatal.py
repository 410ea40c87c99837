"""Recognises requests that may crash engines: several failed with them in a row. Pure."""

from nebula.events.state import State

MAX_FATAL = 2
"""Engines that may fail in a row with a request, without an answer, before it is given up."""


def ended_since(state: State, model: str, time: int) -> bool:
    """Return whether an engine of a model has failed, or was replaced, since `time`.

    `time`: nanoseconds, of the log. If no replica has confirmed the request, it may have been at
    any of the model's engines.
    """
    known = state.models.get(model)
    if known is None or state.time == time:
        return False
    return any(
        replica.since > time if replica.engine is None else replica.engine.started > time
        for replica in state.replicas_of(known)
        if replica.phase not in ("assigned", "stopped")
    )
