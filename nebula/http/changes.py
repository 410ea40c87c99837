"""`POST /admin/changes`: intents are recorded together, if what was planned is still the plan."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, post
from msgspec import Meta, Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.intents import FOLDED, PATIENCE
from nebula.events.state import State
from nebula.events.subjects import EVENTS
from nebula.events.vocabulary import Event
from nebula.history.moments import Moment
from nebula.history.plan_holds import differs
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import state_at
from nebula.http.inference import Limits
from nebula.http.intents import read_intent, recording, refused_intent
from nebula.http.plans import PlannedIntent, events_of, planned
from nebula.http.principals import principal_of
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard

CHANGED = frozenset(
    (
        *("ModelLoadRequested", "ModelScaleRequested", "ModelUnloadRequested"),
        *("AdapterLoadRequested", "AdapterUnloadRequested"),
        *("AliasRequested", "AliasRemoveRequested"),
        *("NodeDrainRequested", "NodeUndrainRequested"),
    )
)
"""The types of intents that may be recorded together. What needs another scope, or to ask a node
first, has its own path."""


class ChangeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Intents that are recorded together, all or none."""

    intents: Annotated[
        tuple[PlannedIntent, ...],
        Meta(min_length=1, max_length=100, description="The intents, in their order."),
    ]
    planned: Annotated[
        int,
        Meta(
            ge=1,
            description="Sequence of the event on which they were planned (`at` of the plan): if "
            "something else would follow by now, nothing is recorded.",
        ),
    ]


class Changed(Struct, frozen=True):
    """The intents are in the log; `seqs`: the sequence of each."""

    seqs: tuple[int, ...]


@post("/admin/changes", status_code=202, request_max_body_size=None)
async def change(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    past: ShownLog,
    scans: Scans,
    limits: Limits,
) -> Changed:
    """Request several changes together, as they were planned on an event of the log."""
    asked, _ = await read_intent(request, gateway, limits, ChangeRequest, optional=False)
    for number, each in enumerate(asked.intents):
        if each.type not in CHANGED:
            known = ", ".join(sorted(CHANGED))
            text = f"intents[{number}]: {each.type!r} has another path; take one of {known}"
            raise ApiError(400, text, param="type")
    intents = events_of(asked.intents)
    newest = past.state.seq
    if asked.planned > newest:
        text = f"planned: there is no sequence {asked.planned} yet: the log ends with {newest}"
        raise ApiError(400, text, param="planned")
    shown = await state_at(past, scans, Moment(seq=asked.planned))
    by = principal_of(request.scope).name
    with recording(gateway):
        last = await _appended(gateway, shown, intents, by)
    return Changed(tuple(range(last - len(intents) + 1, last + 1)))


async def _appended(
    gateway: Gateway, shown: State, intents: Sequence[tuple[str, Event]], by: str
) -> int:
    """Append under the guard that the log has not gone on since it was planned again."""
    projection = gateway.projection
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        state = projection.state
        await _holds(shown, state, intents)
        try:
            guard = Guard(EVENTS, state.seq)
            last = await projection.log.append_all(intents, guard=guard, by=by)
        except Conflict as error:
            if asyncio.get_running_loop().time() >= deadline:
                text = "other events come in all the time, and nothing was recorded: try again"
                raise unavailable(text) from error
            if not await projection.reached(state.seq + 1, timeout=FOLDED):
                raise Unavailable("the log has newer events, which do not come from it") from None
            continue
        if not await projection.reached(last, timeout=FOLDED):
            raise Unavailable(f"recorded as event {last}, which does not come from the log")
        return last


async def _holds(shown: State, now: State, intents: Sequence[tuple[str, Event]]) -> None:
    """Raise ApiError if the intents would be rejected now, or lead to something else."""
    plan = await planned(now, intents)
    if now.seq != shown.seq:
        otherwise = differs(await planned(shown, intents), plan)
        if otherwise:
            raise ApiError(
                409,
                f"the cluster has changed since this was planned on event {shown.seq}, and nothing "
                f"was recorded. Planned on event {now.seq}: {'; '.join(otherwise)}",
                param="planned",
                code="plan_moved",
            )
    if plan.refused:
        raise refused_intent(plan.refused[0].reason)
