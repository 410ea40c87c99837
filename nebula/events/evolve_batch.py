"""The fold of a batch's events: how far it is, and what came of it."""

from msgspec.structs import replace

from nebula.events.batch import Batch
from nebula.events.batch_facts import (
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
)
from nebula.events.intents import BatchCancelRequested, BatchRequested
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.vocabulary import BatchEvent

UNFINISHED = 256
"""Number of batches that may be unfinished at a time."""

REMEMBERED = 256
"""Number of finished batches that the state keeps; the log has all."""


def batch_objection(state: State, identity: str, event: BatchEvent) -> str | None:
    """Return why an intent for a batch is rejected."""
    known = state.batches.get(identity)
    if isinstance(event, BatchCancelRequested):
        if known is None:
            return f"there is no batch {identity!r}"
        return f"batch {identity!r} is already {known.phase}" if known.ending else None
    if not isinstance(event, BatchRequested):
        return None
    if known is not None:
        return f"there is already a batch {identity!r}"
    unfinished = 0
    for other in state.batches.values():
        unfinished += not other.over
        if event.idempotency and _sender(event) == _sender(other.request):
            return f"idempotency: it is already that of batch {other.id!r}"
    if unfinished >= UNFINISHED:
        return f"{unfinished} batches are not finished, as many as may be"
    return None


def _sender(event: BatchRequested) -> tuple[str, str]:
    return event.owner, event.idempotency


def fold_batch(state: State, record: Record, event: BatchEvent) -> State:
    """Fold a valid event of a batch. The first end counts; what follows it changes nothing."""
    if isinstance(event, BatchRequested):
        made = Batch(id=record.id, request=event, created_ns=record.time, changed=record.seq)
        return replace(state, batches=state.batches.insert(made.id, made))
    known = state.batches.get(record.id)
    if known is None or known.over:
        return state
    after = replace(_after(known, event, record.time), changed=record.seq)
    state = replace(state, batches=state.batches.insert(after.id, after))
    return _without_oldest(state) if after.over else state


def _after(batch: Batch, event: BatchEvent, time: int) -> Batch:
    match event:
        case BatchStarted(lines=lines) if not batch.started_ns:
            phase = "in_progress" if batch.phase == "validating" else batch.phase
            return replace(batch, phase=phase, lines=lines, started_ns=time)
        case BatchProgressed():  # that of a gateway that stood still may be late
            completed = max(batch.completed, event.completed)
            return replace(batch, completed=completed, failed=max(batch.failed, event.failed))
        case BatchCancelRequested():
            return replace(batch, phase="cancelling", cancelling_ns=time)
        case BatchFinished(outcome=outcome, problems=problems):
            return replace(_ended(batch, event, time), phase=outcome, problems=problems)
        case BatchCancelled():
            return replace(_ended(batch, event, time), phase="cancelled")
    return batch


def _ended(batch: Batch, event: BatchFinished | BatchCancelled, time: int) -> Batch:
    return replace(
        batch,
        completed=event.completed,
        failed=event.failed,
        output=event.output,
        errors=event.errors,
        finished_ns=time,
    )


def _without_oldest(state: State) -> State:
    """Forget the batches that finished longest ago, beyond those that are remembered."""
    over = sorted((each.changed, each.id) for each in state.batches.values() if each.over)
    batches = state.batches
    for _, identity in over[: max(0, len(over) - REMEMBERED)]:
        batches = batches.discard(identity)
    return replace(state, batches=batches)
