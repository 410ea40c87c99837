"""Leases of replicas: what gateways and routers tell each other about requests sent directly. Pure.

A router lends a gateway credits: so many requests the gateway may have at a replica at a time
without asking the router. Each grant answers one report of the gateway, by its serial number, and
ends TERM seconds after that report was sent, by the gateway's own clock. The router counts it from
when it granted, which is later: so no clocks are compared, and neither a message that arrives late
nor an actor that was suspended makes a lease longer than the router takes it to be.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

TERM = 2.0
"""Seconds after a gateway's report for which the credits hold that answer it."""


_MOST = 2**31
"""What no count of requests reaches: a report that says so is not a gateway's."""

_Count: TypeAlias = Annotated[int, Meta(ge=0, lt=_MOST)]


class Wanted(Struct, frozen=True):
    """A gateway's report about one model: what it has at replicas directly, and what it lacks."""

    least: Annotated[
        int,
        Meta(
            description="The least serial whose answer the gateway still uses, or may use. All "
            "credits that answered an earlier report are given back."
        ),
    ]
    most: Annotated[
        int,
        Meta(
            ge=0,
            lt=_MOST,
            description="Requests that it had, or would have had, at replicas at a time since its "
            "last report; 0: it wants no credits.",
        ),
    ]
    in_flight: Annotated[
        dict[str, _Count],
        Meta(description="Requests that it has sent directly and that run, by replica."),
    ] = {}
    sent: Annotated[
        int,
        Meta(
            ge=0, lt=_MOST, description="Requests that it has sent directly since its last report."
        ),
    ] = 0


class LeasesAsked(Struct, frozen=True):
    """A gateway's report to the router that lends it replicas of these models."""

    serial: Annotated[
        int,
        Meta(ge=0, lt=2**53, description="Number of the report: each is larger than the last."),
    ]
    models: Annotated[dict[str, Wanted], Meta(description="By the id of the model.")]


class Lease(Struct, frozen=True, array_like=True):
    """Credits for one replica, and what the router knows of its load."""

    replica: Annotated[str, Meta(description="Id of the replica.")]
    plan: Annotated[int, Meta(description="Version of the plan that its engine runs for.")]
    credits: Annotated[
        int, Meta(description="Requests that the gateway may have there at a time; 0: it is full.")
    ]
    others: Annotated[
        int, Meta(description="Requests that it has besides those that the gateway sent directly.")
    ] = 0
    waiting: Annotated[
        int, Meta(description="Requests that wait inside the engine, from its heartbeat.")
    ] = 0
    cache: Annotated[
        float, Meta(description="Part of its KV cache in use, 0 to 1, from its heartbeat.")
    ] = 0.0


class LeasesGranted(Struct, frozen=True):
    """A router's answer to a gateway's report."""

    serial: Annotated[int, Meta(description="Number of the report.")]
    models: Annotated[
        dict[str, tuple[Lease, ...]],
        Meta(
            description="Leases by the id of the model. They take the place of earlier ones; a "
            "model without any has none any more."
        ),
    ]
