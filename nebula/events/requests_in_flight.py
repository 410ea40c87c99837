"""Questions about requests in flight, and what gateways and routers reply. Pure.

A question goes to all gateways and routers at once: which of them has a request is known only to
the gateway that sent it, and its place in a queue only to the router in whose queue it is.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Count

Stage: TypeAlias = Literal["waiting", "running"]


class RequestInFlight(Struct, frozen=True):
    """One request in flight, as its gateway knows it; nothing of what it says."""

    id: Annotated[str, Meta(description="Id of the request, as in `nebula why request ID`.")]
    gateway: Annotated[str, Meta(description="Id of its gateway.")]
    model: Annotated[str, Meta(description="Id of the model.")]
    path: Annotated[str, Meta(description="Path of the HTTP request.")]
    state: Annotated[Stage, Meta(description="`waiting` for a replica, or `running` at a replica.")]
    started: Annotated[float, Meta(description="When it was sent first, in seconds since 1970.")]
    adapter: Annotated[str, Meta(description="Name of the adapter; empty for none.")] = ""
    tenant: Annotated[str, Meta(description="Tenant of its API key; empty for none.")] = ""
    key: Annotated[str, Meta(description="Id of its API key; empty for none.")] = ""
    caller_ids: Annotated[tuple[str, ...], Meta(description="Ids that its caller gave it.")] = ()
    router: Annotated[
        str, Meta(description="Id of the router in whose queue it waits; empty if in none.")
    ] = ""
    position: Annotated[
        int | None,
        Meta(description="Place in that queue, from 1, as turns are now; null if not known."),
    ] = None
    replica: Annotated[str, Meta(description="Id of the replica that has it; empty for none.")] = ""
    stream: Annotated[bool, Meta(description="Whether its answer is a stream that has begun.")] = (
        False
    )
    tokens: Annotated[
        Count, Meta(description="Tokens of the answer so far; known only for streams.")
    ] = 0
    attempt: Annotated[int, Meta(description="Number of the present attempt, from 1.")] = 1
    continued: Annotated[
        Count, Meta(description="How often it went on after an engine had failed.")
    ] = 0
    resumable: Annotated[
        bool, Meta(description="Whether it runs to its end without its client.")
    ] = False
    attached: Annotated[bool, Meta(description="Whether its client is connected.")] = True
    slack: Annotated[bool, Meta(description="Whether it takes spare capacity only.")] = False


class InFlightQuestion(Struct, frozen=True):
    """Which requests are in flight; an empty field chooses all."""

    model: Annotated[str, Meta(description="Id of the model.")] = ""
    tenant: Annotated[str, Meta(description="Tenant of the API key.")] = ""
    limit: Annotated[
        int, Meta(ge=1, le=1000, description="Requests of one reply at most, the oldest first.")
    ] = 1000


class InFlightReply(Struct, frozen=True):
    """A gateway's requests in flight, or the places in a router's queues."""

    gateway: Annotated[str, Meta(description="Id of the gateway that replies.")] = ""
    requests: Annotated[
        tuple[RequestInFlight, ...], Meta(description="Its requests, the oldest first.")
    ] = ()
    more: Annotated[Count, Meta(description="Number of further requests.")] = 0
    router: Annotated[str, Meta(description="Id of the router that replies.")] = ""
    positions: Annotated[
        dict[str, int], Meta(description="Place of each request in a queue, from 1, by its id.")
    ] = {}


class CancelQuestion(Struct, frozen=True):
    """Cancels a request, whichever gateway has it."""

    request: Annotated[str, Meta(description="Id of the request: Nebula's, or its caller's.")]
    by: Annotated[str, Meta(description="Principal that cancels it, as `key:ci`.")] = ""
    tenant: Annotated[
        str, Meta(description="Tenant whose requests may be cancelled; empty for all.")
    ] = ""


class CancelReply(Struct, frozen=True):
    """What a gateway has cancelled."""

    gateway: Annotated[str, Meta(description="Id of the gateway that replies.")]
    cancelled: Annotated[
        RequestInFlight | None,
        Meta(description="The request as it was until then; null if this gateway has it not."),
    ] = None
