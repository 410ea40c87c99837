"""What is told of a gateway's requests in flight. Pure."""

from collections.abc import Iterable

from nebula.actors.gateway.in_flight import InFlightRequest, Phase
from nebula.events.key import key_of
from nebula.events.requests_in_flight import (
    CancelQuestion,
    InFlightQuestion,
    InFlightReply,
    RequestInFlight,
)
from nebula.events.state import State

_WAITING = frozenset({Phase.SENT, Phase.QUEUED})


def shown(flight: InFlightRequest, state: State, age: float, wall: float) -> RequestInFlight:
    """Return what is told of a request that was sent `age` seconds before `wall`."""
    request, answer = flight.request, flight.answer
    key = key_of(state.keys, request.user)
    waiting = flight.phase in _WAITING
    tokens = answer.tokens
    return RequestInFlight(
        request.id,
        request.gateway,
        request.model,
        answer.request.path,
        "waiting" if waiting else "running",
        round(wall - age, 3),
        adapter=request.adapter,
        tenant=key.tenant if key is not None else "",
        key=key.id if key is not None else "",
        caller_ids=request.caller_ids,
        router=answer.queued if waiting else "",
        replica="" if waiting else answer.replica,
        stream=answer.streaming,
        tokens=tokens.completion if tokens is not None else 0,
        attempt=request.attempt,
        continued=flight.resent,
        resumable=request.keep,
        attached=flight.attached,
        slack=request.slack,
    )


def reply(
    gateway: str,
    flights: Iterable[InFlightRequest],
    question: InFlightQuestion,
    state: State,
    now: float,
    wall: float,
) -> InFlightReply:
    """Return what a gateway replies. The questions that it asks itself are not shown."""
    chosen = [
        each
        for each in flights
        if not (each.asked_by or each.done)
        and question.model in ("", each.request.model)
        and (not question.tenant or _tenant(each, state) == question.tenant)
    ]
    chosen.sort(key=lambda each: each.began)
    told = tuple(
        shown(each, state, now - each.began, wall) for each in chosen[: max(1, question.limit)]
    )
    return InFlightReply(gateway, told, len(chosen) - len(told))


def meant(
    flights: Iterable[InFlightRequest], question: CancelQuestion, state: State
) -> InFlightRequest | None:
    """Return the request that is to be cancelled; None if it is not among these.

    Of several with the same id of their caller's it is the newest.
    """
    found = [
        each
        for each in flights
        if not (each.asked_by or each.done)
        and (each.id == question.request or question.request in each.request.caller_ids)
        and (not question.tenant or _tenant(each, state) == question.tenant)
    ]
    return max(found, key=lambda each: (each.id == question.request, each.began), default=None)


def _tenant(flight: InFlightRequest, state: State) -> str:
    key = key_of(state.keys, flight.request.user)
    return key.tenant if key is not None else ""
