"""How a batch stands, in words, and what to do about it. Pure."""

from nebula.events.advised import command
from nebula.events.batch import Batch
from nebula.events.state import State
from nebula.history.subject import Verdict

_WIDTH = 24
"""Characters of a progress bar."""


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


def lines_done(batch: Batch) -> str:
    """Return how many lines have an answer, in words."""
    return f"{batch.completed} of {batch.lines} lines completed, {batch.failed} failed"


def bar(done: int, whole: int) -> str:
    """Return a progress bar of one line, with the percentage."""
    part = min(done / whole, 1.0) if whole else 0.0
    full = int(part * _WIDTH)
    return f"{'█' * full}{'░' * (_WIDTH - full)} {int(part * 100)} %"


def _stands(batch: Batch) -> str:
    done = lines_done(batch)
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
        answers = command("batch", "results", batch.id) if batch.output else ""
        errors = command("batch", "results", batch.id, "--errors") if batch.errors else ""
        write = "write" if answers and errors else "writes"
        return f"{' and '.join(filter(None, (answers, errors)))} {write} its results."
    if batch.phase == "failed":
        return "Mend the input, and submit it again."
    return ""
