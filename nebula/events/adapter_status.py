"""The state of one adapter for views and commands: which version answers, and where."""

from msgspec import Struct

from nebula.events.alike import together
from nebula.events.evolve_adapter import other_version, serves, short
from nebula.events.state import Model, Offer, Replica, State


class AdapterState(Struct, frozen=True):
    """One adapter of a model.

    `source` is the wanted source; `version` is the digest of the version that answers ("": none
    does, or it is unknown). `loaded` of the `serving` replicas have that version, `waiting` have
    not reported on the last request yet. `versions`: the digests that each replica has. `reason`:
    why a replica lacks it, or why the previous version stayed; "" if all is well.
    """

    name: str
    source: str
    version: str
    loaded: int
    serving: int
    waiting: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]
    reason: str


def adapter_status(state: State, model: Model, name: str) -> AdapterState:
    """Return how an adapter stands that a model is to have, or has until it is replaced."""
    offer = model.offers.get(name, Offer())
    serving = [replica for replica in state.replicas_of(model) if replica.serving]
    loaded = [each for each in serving if serves(each.adapters.get(name), offer)]
    waiting = [each.id for each in serving if _waits(each, name, offer)]
    leaves = name not in model.adapters
    stays = f"{short(offer.digest)} stays, {offer.refused} was not taken: {offer.kept}"
    reasons = [stays] if offer.kept else []
    if leaves:
        reasons.append("the last load request does not name it: it goes once that is served")
    reasons += together(
        (f"{replica.id} on {replica.node}", f": {reason}")
        for replica in serving
        if not leaves and replica not in loaded and (reason := _lacks(replica, name, offer))
    )
    return AdapterState(
        name,
        {**model.leaving, **model.adapters}[name],
        offer.digest,
        len(loaded),
        len(serving),
        () if leaves else tuple(waiting),
        {
            each.id: status.held
            for each in serving
            if (status := each.adapters.get(name)) is not None and status.loaded
        },
        "; ".join(reasons),
    )


def _lacks(replica: Replica, name: str, offer: Offer) -> str:
    """Return why a replica does not serve an adapter, if its node has reported that; else ""."""
    status = replica.adapters.get(name)
    if status is None or status.reason or offer.pending or not status.digest or not offer.digest:
        return status.reason if status is not None else ""
    return other_version(replica.node, status.digest, offer.digest)


def _waits(replica: Replica, name: str, offer: Offer) -> bool:
    status = replica.adapters.get(name)
    return status is None or status.asked < offer.asked
