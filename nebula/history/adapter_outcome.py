"""The outcome of a request for an adapter: a new version answers, or the previous one. Pure."""

from collections.abc import Iterable

from nebula.events.adapter_status import adapter_status
from nebula.events.evolve_adapter import short
from nebula.events.state import Model, Offer, Replica, State


def awaits(model: Model, replica: Replica, adapter: str) -> bool:
    """Return whether a replica has not reported yet on the last request for an adapter."""
    status, offer = replica.adapters.get(adapter), model.offers.get(adapter, Offer())
    return status is None or status.asked < offer.asked


def in_vain(model: Model, adapter: str, seq: int) -> str:
    """Return why the request at `seq` for an adapter changed nothing; "" if it did."""
    offer = model.offers.get(adapter)
    if offer is None:
        return f"{adapter} was unloaded from {model.id} by a later request"
    if offer.tried == seq:
        answers = (
            f"version {short(offer.digest)} answers"
            if offer.digest
            else ("the previous version answers")
        )
        return f"{adapter} was not changed, {answers} as before: {offer.kept}"
    if offer.asked > seq or offer.tried > seq:
        number = max(offer.asked, offer.tried)
        return f"{adapter} was requested again by event {number}, which replaces this request"
    return ""


def lacking(state: State, model: Model, adapters: Iterable[str], seq: int) -> str:
    """Return the adapters that serving replicas lack, or that a request did not change."""
    found = []
    for name in adapters:
        stands = adapter_status(state, model, name)
        why = f": {stands.reason}" if stands.reason else ""
        if stands.loaded < stands.serving:
            found.append(f"adapter {name} is on {stands.loaded} of {stands.serving} replicas{why}")
        elif stands.reason and model.offers[name].tried >= seq:
            found.append(f"adapter {name}{why}")
    return "; ".join(found)


def with_adapters(model: Model, adapter: str, before: str) -> str:
    """Return which adapters a model has; for `adapter` also its version, compared with `before`."""
    if adapter:
        digest = model.offers[adapter].digest
        if not digest:
            return f", with {adapter}"
        same = ", the same files as before" if digest == before else ""
        return f", with {adapter}, version {short(digest)}{same}"
    return f", with {', '.join(sorted(model.adapters))}" if model.adapters else ""
