"""The event that limits what a tenant, or all requests to a model, may use. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from nebula.events.usage_limits import NO_LIMITS, UsageLimits

Kind: TypeAlias = Literal["tenant", "model"]
"""What has limits beside keys."""


class LimitsSet(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A tenant, or a model, has these limits from now on; they replace all that it had.

    They hold for a model also before it is loaded, and for a tenant also before it has keys.
    """

    kind: Annotated[Kind, Meta(description="Whether the id is that of a tenant or of a model.")]
    limits: Annotated[UsageLimits, Meta(description="How much may be used of it in all.")] = (
        NO_LIMITS
    )
