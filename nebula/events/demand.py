"""What a router could not serve at once in a minute: refused, or kept waiting for engines. Pure."""

from typing import Annotated

from msgspec import Meta, Struct

from nebula.events.values import Count

MINUTE = 60 * 10**9
"""Nanoseconds of a minute."""

_Seconds = Annotated[float, Meta(ge=0)]


class ModelDemand(Struct, frozen=True, omit_defaults=True, gc=False):
    """The requests of clients for one model that were refused or waited while it did not serve."""

    model: Annotated[str, Meta(description="Id of the model; `other` for those beyond the bound.")]
    refused: Annotated[
        dict[str, Count], Meta(description="Requests that were refused, by reason.")
    ] = {}
    requests: Annotated[
        Count, Meta(description="Requests that began to wait while no replica served.")
    ] = 0
    waited: Annotated[
        _Seconds, Meta(description="Seconds that such requests waited in this minute, in all.")
    ] = 0.0
    longest: Annotated[
        _Seconds, Meta(description="Seconds that one of them has waited at most, up to its end.")
    ] = 0.0


class DemandRecord(Struct, frozen=True, omit_defaults=True):
    """What one router could not serve at once, of one minute or a part of it."""

    time: Annotated[Count, Meta(description="Begin of the minute, in ns since 1970.")]
    models: Annotated[
        tuple[ModelDemand, ...], Meta(description="The models that requests were refused for.")
    ] = ()


def merged(one: ModelDemand, other: ModelDemand) -> ModelDemand:
    """Return two records of a model together."""
    reasons = one.refused.keys() | other.refused.keys()
    return ModelDemand(
        one.model,
        {each: one.refused.get(each, 0) + other.refused.get(each, 0) for each in sorted(reasons)},
        one.requests + other.requests,
        round(one.waited + other.waited, 3),
        max(one.longest, other.longest),
    )
