"""Where one more replica of a model could go now, and why each other place is not taken. Pure."""

from msgspec.structs import replace

from nebula.actors.placement.candidates import PlacementCandidate
from nebula.actors.placement.planning import plan
from nebula.events.state import Model, State


def places(state: State, model: Model) -> tuple[PlacementCandidate, ...]:
    """Return the places for the next replica of a model, the best first, each with its reason."""
    more = max(model.wanted, len(model.assignments)) + 1
    spec = replace(model.spec, replicas=more, autoscale=None)
    grown = replace(model, spec=spec, asleep=False, unloading=False)
    found = plan(state, grown, tell=True).choices
    return found[-1].candidates if found else ()
