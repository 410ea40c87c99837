"""How HTTP and the command line change the cluster: with the same events that people publish.

An invalid intent is rejected before it is written. The guard prevents most conflicts with events in
between; the fold rejects the rest, such as a name that an alias has just taken.
"""

from collections.abc import Callable

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.clear_secrets import in_clear
from nebula.events.sizes import oversized
from nebula.events.state import State
from nebula.events.validation import rejection_reason
from nebula.events.vocabulary import AGGREGATE_OF, Event
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard

PATIENCE = 7.0
"""Seconds for the log to take an intent; the last try begins within them and may take two more. The
caller gets an answer within ten."""


FOLDED = 10.0
"""Seconds for an intent that was recorded to come back from the log."""


class Refused(Exception):
    """The intent is rejected; the text says why and names the field."""


async def submit(
    projection: Projection,
    identity: str,
    event: Event,
    *,
    message_id: str | None = None,
    unless: Callable[[State], str] = lambda _: "",
    by: str = "",
) -> int:
    """Append an intent, wait until it is folded here, and return its sequence.

    `unless` returns a further reason against it, in the state to which it is appended. `by`: the
    principal that asks for it. `message_id`: if it was used for the same intent before, that
    intent's sequence is returned.

    Raise Refused, Reused if it was used for another intent, TooLarge, Unavailable if the log does
    not answer, and NotAppended if it did not acknowledge the intent.
    """
    while True:
        state = projection.state
        reason = oversized(event) or in_clear(event) or rejection_reason(state, identity, event)
        reason = reason or unless(state) or None
        if reason is not None:
            before = message_id and await projection.log.under(message_id, identity, event)
            if before:
                return before
            raise Refused(reason)
        guard = _guard(state, event)
        try:
            seq = await projection.log.append(
                identity,
                event,
                guard=guard,
                message_id=message_id,
                patience=PATIENCE,
                exact=message_id is not None,
                by=by,
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
    """Return the guard for most objections: the last event of the same kind of aggregate."""
    if AGGREGATE_OF[type(event).__name__] == "node":
        return Guard(subjects.NODE_EVENTS, state.nodes_seq)
    if AGGREGATE_OF[type(event).__name__] == "batch":
        return Guard(subjects.BATCH_EVENTS, state.batches_seq)
    if AGGREGATE_OF[type(event).__name__] == "key":
        return Guard(subjects.KEY_EVENTS, state.keys_seq)
    return Guard(subjects.MODEL_EVENTS, state.models_seq)
