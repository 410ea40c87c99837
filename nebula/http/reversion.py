"""`GET /admin/reversion`: the way of one model or alias back to what it was, as intents to plan."""

from collections import deque
from typing import Literal

from litestar import get
from msgspec import Struct

from nebula.events.showing import shown
from nebula.events.vocabulary import INTENTS, Event
from nebula.history.reversion import meaning, revert_one
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import read_moment, reading, state_at
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import EventView, event_view, moment
from nebula.store.connection import Unavailable

LAST = 30
"""Requests that are listed."""

Kind = Literal["model", "alias"]


class WayBackStep(Struct, frozen=True):
    """An intent of the way back, as `POST /admin/plan` takes it; `changes`: what it means."""

    id: str
    type: str
    event: Event
    changes: tuple[str, ...]


class WayBack(Struct, frozen=True):
    """The intents that return a model or an alias to how it was after the event at `to`.

    `requests`: what was asked of it, the newest first. `cannot`: what can't be returned, and why.
    """

    to: int
    to_time: str
    steps: list[WayBackStep]
    cannot: tuple[str, ...]
    requests: list[EventView]


@get("/admin/reversion")
async def show_reversion(
    past: ShownLog, scans: Scans, about: str = "", to: str | None = None
) -> WayBack:
    """Show what would return a model or an alias to an earlier state; nothing is recorded.

    Without `to` it is the state before the last request.
    """
    kind, identity = _about(about)
    now = past.state
    requests = await _requests(past, scans, kind, identity)
    if not to and not requests:
        raise ApiError(404, f"about: there is no {kind} with the id {identity!r}", param="about")
    then = await state_at(past, scans, read_moment(to or str(requests[0].seq - 1)))
    way = revert_one(now, then, kind, identity)
    return WayBack(
        to=then.seq,
        to_time=moment(then.time),
        steps=[
            WayBackStep(
                step.id, type(step.event).__name__, shown(step.event), shown(meaning(now, step))
            )
            for step in way.steps
        ],
        cannot=shown(way.cannot),
        requests=requests,
    )


def _about(text: str) -> tuple[Kind, str]:
    kind, slash, identity = text.partition("/")
    if not (slash and identity):
        raise ApiError(400, "about: name a model or an alias, as model/chat", param="about")
    match kind:
        case "model" | "alias":
            return kind, identity
        case _:
            raise ApiError(400, f"about: {kind!r} is neither model nor alias", param="about")


async def _requests(past: ShownLog, scans: Scans, kind: Kind, identity: str) -> list[EventView]:
    last: deque[EventView] = deque(maxlen=LAST)
    try:
        async with reading(scans) as scan:
            async for record in past.events_of(kind, identity, past.state.seq, scan.worked):
                if record.type in INTENTS:
                    last.append(event_view(record))
    except Unavailable as error:
        raise unavailable(str(error), 1) from error
    return list(reversed(last))
