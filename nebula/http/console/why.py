"""Why something is as it is, now or at any moment: the chain of causes, as `nebula why` tells it.

It is read from a stretch of the log that begins with the last request for it, of `LONGEST` events
at most. `nebula why` reads all of a log.
"""

import time
from collections.abc import Callable
from contextlib import aclosing

from litestar import get
from msgspec import Struct
from msgspec.structs import replace

from nebula.events.advised import command
from nebula.events.record import Record
from nebula.events.showing import shown
from nebula.events.state import EMPTY, State
from nebula.history import long_lines, story
from nebula.history.explanation import Chronicle, ExplanationLine
from nebula.history.moments import Moment
from nebula.history.node_story import about_node
from nebula.history.replay import Replay
from nebula.history.story import About, Stretch
from nebula.http.console.shown_moment import (
    Shown,
    moment_fields,
    reader_time,
    state_shown,
)
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading, records, state_at
from nebula.http.scanning import Scan, Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import moment
from nebula.store.connection import Unavailable

LONGEST = 20_000
"""Events that are read for an answer, at most."""

MARGIN = 500
"""Events before the last request that are read too: a plan may follow from what came before."""

SHOWN = 200
"""Lines of an answer, at most: the last ones."""

PIECE = 100
"""Events after which other tasks run."""


class WhyLine(Struct, frozen=True):
    """An event of a chain, and what its maker weighed. `depth`: how many causes it has in it."""

    seq: int
    time: str
    aggregate: str
    id: str
    text: str
    reasons: tuple[str, ...]
    cause: int | None
    depth: int
    by: str


class Explanation(Shown, frozen=True, kw_only=True):
    """How something stands, what to do, and the events that made it so, the first one first.

    `behind`: how what stands behind it stands. `earlier`: events that are not listed. `since`: the
    event with which reading began; `complete`: that reaches back to the last request for it.
    """

    kind: str
    id: str
    headline: str
    todo: str
    behind: tuple[str, ...]
    lines: list[WhyLine]
    earlier: int
    since: int
    complete: bool
    command: str


@get("/admin/why")
async def explain(
    past: ShownLog, scans: Scans, about: str = "", kind: str = "", at: str | None = None
) -> Explanation:
    """Explain how a model, an alias, an adapter, a replica or a node came to stand as it does.

    `about` is its id or name.
    """
    if kind not in ("", "model", "replica", "node"):
        raise ApiError(400, f"kind: {kind[:80]!r} is none of model, replica, node", param="kind")
    if not about:
        raise ApiError(400, "about: give an id or a name", param="about")
    state = await state_shown(past, scans, at)
    asked = story.about(state, kind, about)
    if asked is None:
        text = f"nothing is called {about[:200]!r} at this moment: an earlier one may have it"
        raise ApiError(404, text, param="about", code="not_found")
    now = reader_time(at, past)
    told = story.stands(state, asked, now)
    if now is not None:
        told = story.with_silence(
            told, await past.silent(story.awaited(state, asked.subject)) if told.todo else ""
        )
        told = long_lines.of_subject(state, asked.subject, told, past.lines())
        if trouble := await past.trouble():
            told = replace(told, behind=(*told.behind, trouble))
    async with reading(scans) as scan:
        begin = await _begin(past, scan, asked, state)
        first = max(begin - MARGIN, state.seq - LONGEST, 1)
    stretch = await _stretch(past, scans, first, state)
    async with reading(scans) as scan:
        lines, earlier = await _lines(scan, asked, stretch, begin)
    words = (asked.kind, about) if asked.kind in ("replica", "node") else ("model", about)
    return Explanation(
        **moment_fields(past, state),  # type: ignore[arg-type]
        kind=asked.kind,
        id=about,
        headline=shown(told.headline),
        todo=shown(told.todo),
        behind=shown(told.behind),
        lines=[shown(_line(each)) for each in lines[-SHOWN:]],
        earlier=earlier + max(0, len(lines) - SHOWN),
        since=first,
        complete=first <= max(begin, 1),
        command=command("why", *words, *(("--at", str(state.seq)) if now is None else ())).strip(
            "`"
        ),
    )


async def _begin(past: ShownLog, scan: Scan, asked: About, state: State) -> int:
    """Return the sequence of the last request for what is asked about; 0 if there is none."""
    kind, identity, event = asked.asked
    found = 0
    try:
        events = past.events_of(kind, identity, state.seq, scan.worked, only=event)
        async with aclosing(events):
            async for record in events:
                found = record.seq
    except Unavailable as error:
        raise unavailable(str(error), 1) from error
    return found


async def _stretch(past: ShownLog, scans: Scans, first: int, end: State) -> Stretch:
    """Return the records from `first` to a state, with the state before them. Raise ApiError."""
    start = await state_at(past, scans, Moment(seq=first - 1)) if first > 1 else EMPTY
    found: list[Record] = []
    async with reading(scans) as scan, aclosing(records(past, scan, first - 1, end.seq)) as read:
        async for record in read:
            found.append(record)
    return Stretch(start, found, end)


async def _lines(
    scan: Scan, asked: About, stretch: Stretch, begin: int
) -> tuple[list[ExplanationLine], int]:
    """Return the lines of a story, and how many earlier events are left out."""
    wanted: Callable[[Record, State, State], bool]
    earlier = 0
    if asked.kind == "node":

        def of_node(record: Record, before: State, after: State) -> bool:
            return record.seq >= begin and about_node(record, asked.id, before, after)

        wanted = of_node
    else:
        seqs, earlier = story.chosen(asked, stretch)

        def of_story(record: Record, _: State, __: State) -> bool:
            return record.seq in seqs

        wanted = of_story
    chronicle = Chronicle(wanted, Replay(stretch.start, check=False, keep=True))
    began = time.monotonic()
    for number, record in enumerate(stretch.records, 1):
        chronicle.take(record)
        if number % PIECE == 0:
            await scan.worked(time.monotonic() - began)
            began = time.monotonic()
    return chronicle.lines, earlier


def _line(line: ExplanationLine) -> WhyLine:
    _, _, aggregate, identity, *_ = [*line.subject.split("."), "", "", "", ""]
    return WhyLine(
        line.seq,
        moment(line.time),
        aggregate,
        identity,
        line.text,
        line.reasons,
        line.cause,
        line.depth,
        line.by or line.actor,
    )
