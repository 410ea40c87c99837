"""Which limits hold. Pure."""

from collections.abc import Mapping

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
