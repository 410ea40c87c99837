"""How HTTP and the command line ask the cluster for something: with the very events a hand would.

What can't be granted is refused before it is written; the guard makes the check exact.
"""

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.objections import objection
from nebula.events.vocabulary import Event
from nebula.store.log import Conflict, Guard


class Refused(Exception):
    """The intent can't be granted; the text says why and names the field."""


async def submit(
    projection: Projection,
    identity: str,
    event: Event,
    *,
    message_id: str | None = None,
    patience: float = 20.0,
) -> int:
    """Append an intent about a model, wait until it is folded here, and give its sequence.

    Raises Refused, and Unavailable when the log does not answer.
    """
    while True:
        state = projection.state
        reason = objection(state, identity, event)
        if reason is not None:
            raise Refused(reason)
        guard = Guard(subjects.MODEL_EVENTS, state.models_seq)
        try:
            seq = await projection.log.append(
                identity, event, guard=guard, message_id=message_id, patience=patience
            )
        except Conflict:
            if projection.state.seq == state.seq:
                await projection.changed()
            continue
        await projection.reached(seq)
        return seq
