"""How much a key, a tenant or a model may use. Pure."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

_Number: TypeAlias = Annotated[int, Meta(ge=1, lt=2**53)]
_Priority: TypeAlias = Annotated[int, Meta(ge=-(2**31), lt=2**31)]


class UsageLimits(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Limits of requests and tokens; null for none."""

    requests_per_minute: Annotated[
        _Number | None, Meta(description="Requests that may begin within a minute.")
    ] = None
    tokens_per_minute: Annotated[
        _Number | None,
        Meta(description="Tokens of prompts and answers together within a minute."),
    ] = None
    in_flight: Annotated[
        _Number | None, Meta(description="Requests that may be in flight at a time.")
    ] = None
    waiting: Annotated[
        Annotated[int, Meta(ge=0, lt=2**53)] | None,
        Meta(description="Requests that may wait for a replica at a time, in each router."),
    ] = None
    priority: Annotated[
        tuple[_Priority, _Priority] | None,
        Meta(
            description="The most and the least urgent `priority` that a request may have, the "
            "lower number first."
        ),
    ] = None
    tokens_per_day: Annotated[_Number | None, Meta(description="Tokens within a day of UTC.")] = (
        None
    )
    tokens_per_month: Annotated[
        _Number | None, Meta(description="Tokens within a month of UTC.")
    ] = None
    max_tokens: Annotated[
        _Number | None, Meta(description="Tokens that one answer may have at most.")
    ] = None

    @property
    def empty(self) -> bool:
        """Whether there are no limits."""
        return self is NO_LIMITS or self == NO_LIMITS


def limit_texts(limits: UsageLimits, used: Mapping[str, int] | None = None) -> list[str]:
    """Return the limits that are set, each in words, with what is `used` of them if that is known.

    Limits that nothing is counted for, such as the longest answer, have none.
    """
    texts = []
    for field in limits.__struct_fields__:
        value = getattr(limits, field)
        if value is not None:
            number = f"{value[0]} to {value[1]}" if isinstance(value, tuple) else f"{value:,}"
            spent = (used or {}).get(field)
            part = "" if spent is None else f" ({spent:,} used)"
            texts.append(f"{field.replace('_', ' ')} {number}{part}")
    return texts


NO_LIMITS = UsageLimits()
"""The limits of what has none."""


def limits_of(kind: str, identity: str) -> str:
    """Return where the limits of a tenant or a model are in `State.limits`: `tenant.lab`."""
    return f"{kind}.{identity}"


def problem(limits: UsageLimits) -> str | None:
    """Return what is wrong with limits, naming the field; None if nothing is."""
    if limits.priority is not None and limits.priority[0] > limits.priority[1]:
        first, last = limits.priority
        return f"limits: priority goes from {first} to {last}, and the lower number comes first"
    return None
