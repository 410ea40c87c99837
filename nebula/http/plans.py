"""`POST /admin/plan`: what would follow from intents, of which none is recorded."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, post
from msgspec import Meta, Struct
from msgspec.structs import asdict

from nebula.actors.gateway.actor import Gateway
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.events.values import Token
from nebula.events.vocabulary import AGGREGATE_OF, INTENTS, TYPES, Event
from nebula.events.wrong_values import in_words
from nebula.history.change_plan import ChangePlan, plan_change
from nebula.history.intent_command import intent_command
from nebula.http.errors import ApiError, field_at_fault
from nebula.http.inference import Limits
from nebula.http.intents import read_intent

PLANNED = frozenset(
    name
    for name in (*INTENTS, "NodeDeregistered")
    if AGGREGATE_OF[name] in ("model", "alias", "node", "limits")
)
"""The types of events that may be planned: those that say what is to run, where, and how much."""


class PlannedIntent(Struct, frozen=True, forbid_unknown_fields=True):
    """An event that might be appended."""

    type: Annotated[str, Meta(description="Type of the event, as `ModelScaleRequested`.")]
    id: Annotated[Token, Meta(description="Id of the model, alias, node or tenant.")]
    event: Annotated[dict[str, object], Meta(description="Fields of the event.")] = {}


class PlanRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Events that might be appended together."""

    intents: Annotated[
        tuple[PlannedIntent, ...],
        Meta(min_length=1, max_length=100, description="The events, in their order."),
    ]


class PlanAnswer(ChangePlan, frozen=True):
    """A plan; `commands`: what asks for the same at a command line, one for each intent.

    A command is empty if no command asks for that intent.
    """

    commands: tuple[str, ...] = ()


@post("/admin/plan", status_code=200, request_max_body_size=None)
async def plan(request: Request[Any, Any, Any], gateway: Gateway, limits: Limits) -> PlanAnswer:
    """Decide what would follow from events, without recording them."""
    asked, _ = await read_intent(request, gateway, limits, PlanRequest, optional=False)
    state = gateway.projection.state
    intents = events_of(asked.intents)
    found = await planned(state, intents)
    commands = tuple(shown(intent_command(state, *each)) for each in intents)
    return PlanAnswer(**asdict(found), commands=commands)


async def planned(state: State, intents: Sequence[tuple[str, Event]]) -> ChangePlan:
    """Return a plan, made in a thread: for a large cluster it takes longer than others may wait."""
    return await asyncio.to_thread(plan_change, state, intents)


def events_of(intents: Sequence[PlannedIntent]) -> list[tuple[str, Event]]:
    """Return the events that are meant, each with the id that it is about. Raise ApiError."""
    return [(each.id, _event(number, each)) for number, each in enumerate(intents)]


def _event(number: int, asked: PlannedIntent) -> Event:
    place = f"intents[{number}]"
    if asked.type not in PLANNED:
        known = ", ".join(sorted(PLANNED))
        raise ApiError(
            400, f"{place}: {asked.type!r} can't be planned: take one of {known}", param="type"
        )
    try:
        return msgspec.convert(asked.event, TYPES[asked.type])
    except msgspec.ValidationError as error:
        text = f"{place}: {in_words(error)}"
        raise ApiError(400, text, param=field_at_fault(error)) from error
