"""Which limit of a key, a tenant or a model keeps a request from waiting. Pure.

A router counts what waits in its own queues. Slack waits without such limits, and so do further
attempts of a request that has begun.
"""

from collections.abc import Iterable, Iterator

from nebula.actors.router.lines import Line
from nebula.events.inference import Request
from nebula.events.key import key_of
from nebula.events.state import State
from nebula.events.usage_limits import UsageLimits, limits_of


def exceeded(state: State, request: Request, lines: Iterable[Line], own: Line) -> str | None:
    """Return in words which limit a request would exceed if it waited too; None for none.

    `lines`: all that waits in this router, `own`: the line of the request's model.
    """
    for what, limits, count in _limits(state, request, lines, own):
        if limits.waiting is not None and count >= limits.waiting:
            return f"{what} may have {limits.waiting} waiting requests, and has {count}"
    return None


def _limits(
    state: State, request: Request, lines: Iterable[Line], own: Line
) -> Iterator[tuple[str, UsageLimits, int]]:
    """Yield the name of each subject that has limits, its limits, and its waiting requests."""
    key = key_of(state.keys, request.user)
    if key is not None and key.limits.waiting is not None:
        waiting = sum(line.asked.of_keys[request.user.partition("/")[0]] for line in lines)
        yield f"key {key.name or key.id!r}", key.limits, waiting
    if not state.limits:
        return
    if key is not None and key.tenant:
        found = state.limits.get(limits_of("tenant", key.tenant))
        if found is not None and found.waiting is not None:
            waiting = sum(line.asked.of_tenants[key.tenant] for line in lines)
            yield f"tenant {key.tenant!r}", found, waiting
    found = state.limits.get(limits_of("model", request.model))
    if found is not None:
        yield f"model {request.model!r}", found, len(own.asked)
