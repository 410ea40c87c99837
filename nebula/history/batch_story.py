"""How a batch stands, in words, and what to do about it. Pure."""

from nebula.events.batch import Batch
from nebula.events.state import State
from nebula.history.subject import Verdict


def batch_verdict(state: State, identity: str) -> Verdict:
    """Return how a batch stands, with a line for each thing that is wrong with its input."""
    batch = state.batches.get(identity)
    if batch is None:
        return Verdict(f"batch {identity} ended long ago: only its events are left")
    wrong = tuple(
        f"line {each.line}: {each.message}" if each.line else each.message
        for each in batch.problems
    )
    return Verdict(f"batch {identity} {_stands(batch)}", _todo(batch), wrong)


def _stands(batch: Batch) -> str:
    done = f"{batch.completed} of {batch.lines} lines completed, {batch.failed} failed"
    match batch.phase:
        case "validating":
            return "is new: its input is still to be read"
        case "in_progress":
            return f"is in progress: {done}"
        case "cancelling":
            return f"is asked to end: {done}"
        case "failed":
            return "failed: its input is not valid, and no line was sent"
        case phase:
            return f"is {phase}: {done}"


def _todo(batch: Batch) -> str:
    if batch.output or batch.errors:
        files = [each for each in (batch.output, batch.errors) if each]
        return f"Its results are in {' and '.join(files)}."
    if batch.phase == "failed":
        return "Mend the input, and submit it again."
    return ""
