"""Which replica gets a request: one pure choice over what the router knows at that moment.

All routers that know the same choose the same: there is no turn and no chance in it.
"""

import hashlib
from collections.abc import Sequence

from nebula.events.inference import FAILED, SILENT, STALLED, TRIED, Candidate
from nebula.events.standing import loading_seconds, standing
from nebula.events.state import Model, Named, Replica, State

SLACK = 4
"""Requests by which a replica that has seen a prompt's beginning may be busier than the least busy,
and still be chosen: as many again as that one has count too."""

_MUTE = frozenset({SILENT, STALLED})
_DOUBTS = {"": 1, FAILED: 1, TRIED: 2, SILENT: 3, STALLED: 3}
"""Doubts about replicas that are avoided, the lightest first."""

CACHE_FULL = 0.95
"""The part of a KV cache in use above which one more request makes others wait."""


def able(state: State, model: Model, adapter: str) -> list[Replica]:
    """Give the replicas that serve the model now, and its adapter if one is asked for.

    An engine knows its model by the name that it was started with: of a model that was renamed,
    those still to be replaced serve adapters only.
    """
    if adapter:
        return [
            replica
            for replica in state.replicas_of(model)
            if replica.serving and (status := replica.adapters.get(adapter)) and status.loaded
        ]
    return [
        replica
        for replica in state.replicas_of(model)
        if replica.serving and (replica.launch is None or replica.launch.name == model.name)
    ]


def hopeless(state: State, named: Named) -> str | None:
    """Say why waiting for a model, and the adapter where one is named, is in vain; else None."""
    model = state.models.get(named.model)
    if model is None or model.unloading:
        return f"model {named.model!r} has been unloaded"
    stands = standing(state, model)
    scales = model.spec.autoscale is not None  # who waits makes the first replica
    if stands.word == "failed" or (stands.word == "idle" and not scales):
        return f"model {model.name!r} is not served: {stands.detail}"
    if not named.adapter or stands.word != "ready":
        return None
    statuses = [
        replica.adapters.get(named.adapter)
        for replica in state.replicas_of(model)
        if replica.serving
    ]
    if statuses and all(status is not None and not status.loaded for status in statuses):
        reason = next(status.reason for status in statuses if status is not None)
        return f"adapter {named.adapter!r} could not be loaded: {reason}"
    return None


def progress(state: State, named: Named, now: int) -> str:
    """Say how far a model, or its adapter, is on its way to being served; `now` in ns."""
    model = state.models.get(named.model)
    if model is None:
        return f"model {named.model!r} has been unloaded"
    if model.asleep:
        # Who waits wakes it within a second, unless it has to wait for its turn.
        return f"model {model.name!r} waits for room, which other models have now"
    stands = standing(state, model)
    if named.adapter and stands.word == "ready":
        return f"adapter {named.adapter!r} is loading"
    seconds = loading_seconds(state, model, now)
    since = f" for {seconds:.0f} s" if seconds else ""
    return f"model {model.name!r} is {stands.word}{since}: {stands.detail}"


def choose(candidates: Sequence[Candidate], key: str, limit: int) -> str | None:
    """Choose a replica that has less than `limit` requests; None where all have their fill.

    1. One that is avoided for what it has failed is taken only where no other has room: no replica
       stands idle beside a line. One that has failed other requests is better than the one that
       has failed this very request. One that is not heard from is taken only where no
       other is left: late heartbeats are no proof of death. One that stands still is taken by no
       means until it has shown progress: what waits in line goes to whoever is first able.
    2. Of the others the one that has seen most of the prompt's beginning, so that vLLM's prefix
       cache serves it, unless it is clearly busier than the least busy one or its cache is full.
    3. Else the least busy; of equals, the first in an order that `key` draws: what shares a key
       (an adapter, a prompt's beginning) meets on the same replica, whichever router sends it.
    """
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
    return equal[0] if len(equal) == 1 else max(equal, key=lambda each: _draw(key, each))


def doubtful(candidate: Candidate) -> int:
    """Return how doubtful a replica is: 0 for one that is not avoided."""
    return _DOUBTS.get(candidate.doubt, 1) if candidate.avoided else 0


def _doubted(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """Return the least doubtful replicas with room, where only avoided ones have it."""
    candidates = [each for each in candidates if not (each.avoided and each.doubt == STALLED)]
    heard = [each for each in candidates if not (each.avoided and each.doubt in _MUTE)]
    free = [each for each in heard or candidates if each.in_flight < limit]
    least = min(map(doubtful, free), default=0)
    return [each for each in free if doubtful(each) == least]


def _draw(key: str, replica: str) -> bytes:
    """Order replicas differently for each key, and alike everywhere (rendezvous hashing)."""
    return hashlib.blake2b(f"{key} {replica}".encode(), digest_size=8).digest()
