"""Limits as rows, each with what is used and what is left of it. Pure."""

from collections.abc import Mapping

from msgspec import Struct

from nebula.events.usage_limits import UsageLimits


class LimitRow(Struct, frozen=True):
    """One limit of a key, a tenant or a model. `limit`: in words where it is not a number.

    `used`, `left`: null where nothing is counted, or it is not known.
    """

    kind: str
    id: str
    name: str
    limit: str | int
    used: int | None = None
    left: int | None = None


def limit_rows(
    kind: str, identity: str, limits: UsageLimits, used: Mapping[str, int] | None
) -> list[LimitRow]:
    """Return a row for each limit that is set; `used`: what is counted of them, if it is known."""
    found = []
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if value is None:
            continue
        if isinstance(value, tuple):
            found.append(LimitRow(kind, identity, name, f"{value[0]} to {value[1]}"))
            continue
        taken = (used or {}).get(name)
        left = None if taken is None else max(0, value - taken)
        found.append(LimitRow(kind, identity, name, value, taken, left))
    return found
