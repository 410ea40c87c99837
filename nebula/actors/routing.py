"""Which replica gets a request: one pure choice over what the router knows at that moment."""

from collections.abc import Sequence

from msgspec import Struct

from nebula.events.state import Model, Replica, State


class Candidate(Struct, frozen=True):
    """A replica that could serve a request. `silent`: its heartbeat is overdue."""

    replica: str
    in_flight: int
    silent: bool = False


def able(state: State, model: Model, adapter: str) -> list[Replica]:
    """Give the replicas that serve the model now, and its adapter if one is asked for."""
    return [
        replica
        for replica in state.replicas_of(model)
        if replica.serving
        and (not adapter or ((status := replica.adapters.get(adapter)) and status.loaded))
    ]


def choose(candidates: Sequence[Candidate], turn: int) -> str | None:
    """Choose the least busy of the replicas that are heard from, in turn where they are equal.

    A silent replica is chosen only where no other is left: late heartbeats are no proof of death,
    and a try is better than a refusal.
    """
    if not candidates:
        return None
    heard = [candidate for candidate in candidates if not candidate.silent] or candidates
    least = min(candidate.in_flight for candidate in heard)
    equal = [candidate.replica for candidate in heard if candidate.in_flight == least]
    return equal[turn % len(equal)]
