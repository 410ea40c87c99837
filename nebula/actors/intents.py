"""How HTTP and the command line ask the cluster for something: with the very events a hand would.

What can't be granted is refused before it is written. The guard keeps out most of what could come
in between; what still does, as an alias that takes a model's name, is refused by the fold.
"""

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.objections import objection
from nebula.events.sizes import oversized
from nebula.events.state import State
from nebula.events.vocabulary import AGGREGATE_OF, Event
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard

PATIENCE = 7.0
"""Seconds for the log to take an intent; the last try begins before they are over and may take two
more. Whoever asked waits, and hears within ten."""


FOLDED = 10.0
"""Seconds for an intent that was recorded to come back from the log."""


class Refused(Exception):
    """The intent can't be granted; the text says why and names the field."""


async def submit(
    projection: Projection,
    identity: str,
    event: Event,
    *,
    message_id: str | None = None,
) -> int:
    """Append an intent, wait until it is folded here, and give its sequence.

    Raises Refused, TooLarge, and Unavailable when the log does not answer, NotAppended where it
    did not acknowledge the intent.
    """
    while True:
        state = projection.state
        reason = oversized(event) or objection(state, identity, event)
        if reason is not None:
            raise Refused(reason)
        guard = _guard(state, event)
        try:
            seq = await projection.log.append(
                identity, event, guard=guard, message_id=message_id, patience=PATIENCE
            )
        except Conflict:
            if not await projection.reached(state.seq + 1, timeout=FOLDED):
                raise Unavailable("the log has newer events, which do not come from it") from None
            continue
        if not await projection.reached(seq, timeout=FOLDED):
            raise Unavailable(f"recorded as event {seq}, which does not come from the log")
        reason = projection.refusal(seq)
        if reason is not None:
            raise Refused(reason)
        return seq


def _guard(state: State, event: Event) -> Guard:
    """Guard what an objection looks at most: the other events of the same kind of aggregate."""
    if AGGREGATE_OF[type(event).__name__] == "node":
        return Guard(subjects.NODE_EVENTS, state.nodes_seq)
    return Guard(subjects.MODEL_EVENTS, state.models_seq)
