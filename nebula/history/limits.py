"""Which limits hold, and what is left of the budgets of a batch. Pure."""

from collections.abc import Mapping

from nebula.events.ledger import BUDGETS
from nebula.events.state import State
from nebula.events.usage_limits import UsageLimits, limits_of


def present_limits(state: State) -> Mapping[str, UsageLimits]:
    """Return the limits of keys, models and tenants by where they are: `key.ci`, `tenant.lab`.

    Those of revoked keys are left out.
    """
    found = dict(state.limits)
    for identity, key in state.keys.items():
        if not key.limits.empty and not key.revoked_ns:
            found[limits_of("key", identity)] = key.limits
    return {place: found[place] for place in sorted(found)}


def budgets_of(state: State, owner: str) -> Mapping[tuple[str, str], Mapping[str, int]]:
    """Return the budgets of tokens that hold for a batch: those of its key and of its tenant.

    `owner`: whose batch it is. Both are by what has them, such as `("key", "ci")`.
    """
    key = state.keys.get(owner.removeprefix("key:"))
    if key is None or not owner.startswith("key:"):
        return {}
    tenant = state.limits.get(limits_of("tenant", key.tenant)) if key.tenant else None
    found = {("key", key.id): key.limits}
    if tenant is not None:
        found["tenant", key.tenant] = tenant
    return {
        place: budgets
        for place, limits in found.items()
        if (
            budgets := {
                n.value: b for n in sorted(BUDGETS) if (b := getattr(limits, n)) is not None
            }
        )
    }


def budget_texts(
    place: tuple[str, str], budgets: Mapping[str, int], used: Mapping[str, int]
) -> list[str]:
    """Return what is used of the budgets of a key or a tenant, for a batch that is under way."""
    kind, identity = place
    texts = []
    for name, budget in budgets.items():
        taken, unit = used.get(name, 0), name.replace("_", " ")
        left = max(budget - taken, 0)
        waits = "its lines wait" if not left else f"lines that may take more than {left:,} wait"
        texts.append(f"{kind} {identity!r} has used {taken:,} of {budget:,} {unit}: {waits}")
    return texts
