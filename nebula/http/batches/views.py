"""Batches in the form of OpenAI's API. Pure."""

import re

from msgspec import Struct

from nebula.events.batch import Batch
from nebula.events.endpoints import ENDPOINTS

BATCHED = tuple(path for path, endpoint in ENDPOINTS.items() if not endpoint.form)
"""Paths that the lines of a batch may be sent to: those that take JSON."""

_WINDOW = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_WINDOW = 7 * 86400


class Counts(Struct, frozen=True):
    """How many lines there are, and how many have an answer."""

    total: int
    completed: int
    failed: int


class ProblemView(Struct, frozen=True):
    """What is wrong with an input."""

    code: str
    message: str
    line: int | None
    param: str | None


class ProblemList(Struct, frozen=True):
    """All that is wrong with an input."""

    data: tuple[ProblemView, ...]
    object: str = "list"


class BatchView(Struct, frozen=True, kw_only=True):
    """A batch in OpenAI's form."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: ProblemList | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None


def view(batch: Batch) -> BatchView:
    """Return a batch as clients see it."""
    request = batch.request
    ended = {batch.phase: _seconds(batch.finished_ns)}
    problems = tuple(
        ProblemView(each.code, each.message, each.line, each.param) for each in batch.problems
    )
    return BatchView(
        id=batch.id,
        endpoint=request.endpoint,
        errors=ProblemList(problems) if problems else None,
        input_file_id=request.input,
        completion_window=window_text(request.window),
        status=status(batch),
        output_file_id=batch.output or None,
        error_file_id=batch.errors or None,
        created_at=batch.created_ns // 10**9,
        in_progress_at=_seconds(batch.started_ns),
        expires_at=batch.expires_ns // 10**9,
        completed_at=ended.get("completed"),
        failed_at=ended.get("failed"),
        expired_at=ended.get("expired"),
        cancelling_at=_seconds(batch.cancelling_ns),
        cancelled_at=ended.get("cancelled"),
        request_counts=Counts(batch.lines, batch.completed, batch.failed),
        metadata=request.metadata or None,
    )


def status(batch: Batch) -> str:
    """Return a batch's status by OpenAI's names."""
    done = batch.completed + batch.failed
    if batch.phase == "in_progress" and batch.lines and done >= batch.lines:
        return "finalizing"
    return batch.phase


def window(text: str) -> float:
    """Return a completion window in seconds. Raise ValueError."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match is not None else 0
    if not 0 < seconds <= LONGEST_WINDOW:
        raise ValueError(f"{text[:40]!r} is not a time such as 24h, of 7d at most")
    return float(seconds)


def window_text(seconds: float) -> str:
    """Return a completion window as OpenAI's clients write it."""
    for unit in ("h", "m"):
        count, rest = divmod(seconds, _SECONDS[unit])
        if count and not rest:
            return f"{count:.0f}{unit}"
    return f"{seconds:.0f}s"


def _seconds(ns: int) -> int | None:
    return ns // 10**9 or None
