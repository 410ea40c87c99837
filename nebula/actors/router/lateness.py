"""Why a request has waited for too long in a router: status, words, when to try again. Pure."""

from collections.abc import Callable, Sequence

from nebula.actors.router import routing
from nebula.events.inference import Request
from nebula.events.state import NameBinding, State


def why_late(
    state: State,
    request: Request,
    waited: float,
    wall: int,
    standing_still: Callable[[Sequence[str]], str | None],
) -> tuple[int, str, int | None]:
    """Return why a request waited so long (s): status, words, retry after (s).

    `wall`: nanoseconds since the epoch. `standing_still`: says which of these replicas do.
    """
    bound = (
        f"it has waited for {waited:.0f} s, which is what its gateway's --load-timeout gives "
        "a request, or its X-Request-Timeout where that is shorter"
    )
    model = state.models.get(request.model)
    if model is None:
        return 503, f"model {request.model!r} is not known to the router yet", 1
    if able := routing.able(state, model, request.adapter):
        still = standing_still([each.id for each in able])
        if still is not None:
            return 503, f"model {model.name!r} is served, but {still}; {bound}", 5
        return 429, f"model {model.name!r} is busy: no turn has come; {bound}", 5
    far = routing.progress(state, NameBinding(model.id, request.adapter), wall)
    return 503, f"{far}; {bound}", 5
