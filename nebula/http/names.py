"""The names that requests may use, and the 404 for other names, which lists them."""

from collections.abc import Callable

from nebula.actors.router import routing
from nebula.events.state import State
from nebula.events.validation import known_names
from nebula.http.errors import ApiError

_TOLD = 200
"""Characters of an unknown name that are repeated in the error."""

_LISTED = 50
"""Number of names that are listed, at most."""


def offered(state: State) -> list[str]:
    """Return every name that a request may use, sorted: no adapter that failed to load anywhere."""
    return [name for name in known_names(state) if not _refused(state, name)]


def _refused(state: State, name: str) -> str | None:
    """Return why no replica of an adapter's model will have it; None for all other names."""
    binding = state.names[name]
    model = state.models.get(binding.model) if binding.adapter else None
    return routing.refused(state, model, binding.adapter) if model is not None else None


def no_model(state: State, name: str, may_use: Callable[[str], bool] = lambda _: True) -> ApiError:
    """Return the error for an unknown name, or for an alias without existing targets.

    `may_use` returns whether the caller may use a name: for it, no other names exist.
    """
    said = name if len(name) <= _TOLD else f"{name[:_TOLD]}..."
    names = [each for each in offered(state) if each != name and may_use(each)]
    there = ", ".join(repr(known) for known in names[:_LISTED]) if names else "none yet"
    known = state.names.get(name) if may_use(name) else None
    what = f"The model {said!r} does not exist"
    if known is not None and known.alias:
        targets = ", ".join(repr(each.model) for each in state.aliases[known.alias].targets)
        what = f"{name!r} is an alias of {targets}, none of which exists now"
    if known is not None and (reason := _refused(state, name)):
        what = f"{reason[:1].upper()}{reason[1:]}"
    return ApiError(404, f"{what}. There are: {there}", param="model", code="model_not_found")
