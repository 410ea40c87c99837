"""The 404 for an unknown model name: it lists the names there are."""

from nebula.events.state import State
from nebula.events.validation import known_names
from nebula.http.errors import ApiError

_TOLD = 200
"""Characters of an unknown name that are repeated in the error."""

_LISTED = 50
"""Number of names that are listed, at most."""


def no_model(state: State, name: str) -> ApiError:
    """Return the error for an unknown name, or for an alias without existing targets."""
    said = name if len(name) <= _TOLD else f"{name[:_TOLD]}..."
    names = [each for each in known_names(state) if each != name]
    there = ", ".join(repr(known) for known in names[:_LISTED]) if names else "none yet"
    known = state.names.get(name)
    what = f"The model {said!r} does not exist"
    if known is not None and known.alias:
        targets = ", ".join(repr(each.model) for each in state.aliases[known.alias].targets)
        what = f"{name!r} is an alias of {targets}, none of which exists now"
    return ApiError(404, f"{what}. There are: {there}", param="model", code="model_not_found")
