"""Chooses the replica for a request: a pure function of what the router knows at that moment.

Routers that know the same choose the same: neither turns nor chance are involved.
"""

import hashlib
from collections.abc import Sequence

from nebula.events import sources
from nebula.events.alike import together
from nebula.events.evolve_adapter import serves, short
from nebula.events.inference import Doubt, ReplicaCandidate, Request
from nebula.events.model_status import loading_seconds, model_status
from nebula.events.state import Model, NameBinding, Replica, State

SLACK = 4
"""Requests by which a replica that has seen a prompt's beginning may be busier than the least busy
one and still be chosen; it may also be up to twice as busy."""

_MUTE = frozenset({Doubt.SILENT, Doubt.STALLED})
_DOUBTS = {"": 1, Doubt.FAILED: 1, Doubt.TRIED: 2, Doubt.SILENT: 3, Doubt.STALLED: 3}
"""The reasons for avoiding a replica, the weakest first."""

CACHE_FULL = 0.95
"""Part of the KV cache in use above which another request makes others wait."""


def able(state: State, model: Model, adapter: str) -> list[Replica]:
    """Return the replicas that serve the model now, and its adapter if one is asked for."""
    return [each for each in state.replicas_of(model) if _is_able(each, model, adapter)]


def served(state: State, model: Model, adapter: str) -> bool:
    """Return whether a replica is `able`; the first one found is enough."""
    for identity in model.replicas:
        replica = state.replicas.get(identity)
        if replica is not None and _is_able(replica, model, adapter):
            return True
    return False


def _is_able(replica: Replica, model: Model, adapter: str) -> bool:
    """Return whether a replica serves its model now, and its adapter if one is asked for.

    An engine knows its model by the name that it was started with: of a model that was renamed,
    those still to be replaced serve adapters only. An adapter's name stands for one version, so
    that replicas which have another one in place do not serve it.
    """
    if not replica.serving:
        return False
    if adapter:
        return serves(replica.adapters.get(adapter), model.offers.get(adapter))
    return replica.launch is None or replica.launch.name == model.name


def hopeless(state: State, binding: NameBinding) -> str | None:
    """Return why waiting for a model, or its adapter, is pointless; else None."""
    model = state.models.get(binding.model)
    if model is None or model.unloading:
        return f"model {binding.model!r} has been unloaded"
    stands = model_status(state, model)
    scales = model.spec.autoscale is not None  # a waiting request creates the first replica
    lacked = stands.phase == "unschedulable" and sources.lacked(state, model.spec.source)
    if lacked or stands.phase == "failed" or (stands.phase == "idle" and not scales):
        return f"model {model.name!r} is not served: {stands.detail}"
    if not binding.adapter or stands.phase != "ready":
        return None
    return refused(state, model, binding.adapter)


def refused(state: State, model: Model, adapter: str) -> str | None:
    """Return why no replica will have an adapter; None if one has it or may still get it.

    A replica that is not ready yet may get it: it loads its adapters when it is.
    """
    offer = model.offers.get(adapter)
    reasons = []
    for replica in state.replicas_of(model):
        if replica.retired or replica.given_up:
            continue
        status = replica.adapters.get(adapter)
        if not replica.serving or status is None or serves(status, offer) or not status.reason:
            return None
        if offer is not None and status.asked < offer.asked:
            return None
        reasons.append((f"{replica.id} on {replica.node}", f": {status.reason}"))
    told = "; ".join(together(reasons))
    return f"adapter {adapter!r} could not be loaded: {told}" if told else None


def moved_on(state: State, request: Request) -> str | None:
    """Return why an answer can't be continued with its version of an adapter; None if it can."""
    model = state.models.get(request.model) if request.version else None
    offer = model.offers.get(request.adapter) if model is not None else None
    if offer is None or not offer.digest or offer.digest == request.version:
        return None
    return (
        f"adapter {request.adapter!r} is another version by now, {short(offer.digest)}: what is "
        f"left of this answer can't come from {short(request.version)}, which began it"
    )


def progress(state: State, binding: NameBinding, now: int) -> str:
    """Return the progress of a model, or of its adapter, towards serving; `now` in ns."""
    model = state.models.get(binding.model)
    if model is None:
        return f"model {binding.model!r} has been unloaded"
    if model.asleep:
        # A waiting request wakes it within a second, unless it must wait for memory.
        return f"model {model.name!r} waits for room, which other models have now"
    stands = model_status(state, model, now)
    if binding.adapter and stands.phase == "ready":
        return f"adapter {binding.adapter!r} is loading"
    seconds = loading_seconds(state, model, now)
    since = f" for {seconds:.0f} s" if seconds else ""
    return f"model {model.name!r} is {stands.phase}{since}: {stands.detail}"


def choose(candidates: Sequence[ReplicaCandidate], key: str, limit: int) -> str | None:
    """Choose a replica that has less than `limit` requests; None if there is none.

    1. A replica that is avoided because of failures is chosen only if no other has room, so that no
       replica is idle beside a queue; one that has failed other requests is better than one that
       has failed this request. A silent replica is chosen only if there is no other, since a late
       heartbeat does not prove death. A stalled replica is never chosen until it makes progress:
       queued requests go to the first replica that can take them.
    2. Among the others, the replica that has seen most of the prompt's beginning is chosen, so that
       vLLM's prefix cache serves it, unless it is clearly busier than the least busy one or its
       cache is full.
    3. Otherwise the least busy is chosen; among equals, the first in an order that `key`
       determines: requests with the same key (adapter, prompt's beginning) go to the same replica,
       whichever router sends them.
    """
    if len(candidates) == 1 and candidates[0].in_flight < limit and not candidates[0].avoided:
        return candidates[0].replica
    free = [each for each in candidates if each.in_flight < limit and not each.avoided]
    if not free:
        free = _doubted(candidates, limit)
    if not free:
        return None
    if len(free) == 1:
        return free[0].replica
    least = min(each.load for each in free)
    bound = 2 * least + SLACK
    known = [each for each in free if each.prefix and each.load <= bound]
    if known:
        roomy = [each for each in known if each.cache < CACHE_FULL] or known
        longest = max(each.prefix for each in roomy)
        free = [each for each in roomy if each.prefix == longest]
        least = min(each.load for each in free)
    equal = [each.replica for each in free if each.load == least]
    return equal[0] if len(equal) == 1 else max(equal, key=lambda each: draw(key, each))


def key_of(request: Request) -> str:
    """Return the key that chooses among equal replicas: the prompt without its end."""
    if request.prefix:
        return request.prefix[max(0, len(request.prefix) - 2)]
    return request.adapter or request.id


def doubtful(candidate: ReplicaCandidate) -> int:
    """Return how strongly a replica is to be avoided: 0 if not at all."""
    return _DOUBTS.get(candidate.doubt, 1) if candidate.avoided else 0


def _doubted(candidates: Sequence[ReplicaCandidate], limit: int) -> list[ReplicaCandidate]:
    """Return the replicas with room that are least to be avoided, if only such have room."""
    candidates = [each for each in candidates if not (each.avoided and each.doubt == Doubt.STALLED)]
    heard = [each for each in candidates if not (each.avoided and each.doubt in _MUTE)]
    free = [each for each in heard or candidates if each.in_flight < limit]
    least = min(map(doubtful, free), default=0)
    return [each for each in free if doubtful(each) == least]


def draw(key: str, actor: str) -> bytes:
    """Return a sort key for a replica or router: the same everywhere (rendezvous hashing)."""
    return hashlib.blake2b(f"{key} {actor}".encode(), digest_size=8).digest()
