"""Why a router sent a request to this replica and not to another, in words. Pure.

A router records what it knew of the replicas at that moment, not why it chose. The reason follows
from the rules of `routing.choose`, stage by stage: each candidate that drops out at a stage is
listed with its reason.
"""

from collections.abc import Sequence

from nebula.actors.router.routing import CACHE_FULL, SLACK, doubtful
from nebula.events.inference import Doubt, ReplicaCandidate

_DOUBTS: dict[str, str] = {
    Doubt.FAILED: "it has failed several requests since its last success",
    Doubt.TRIED: "it has failed this very request before",
    Doubt.SILENT: "it sends no heartbeat",
    Doubt.STALLED: "it is stalled",
}
_DOUBT = "it had failed, stalled or sent no heartbeat"


def reasons(candidates: Sequence[ReplicaCandidate], chosen: str, limit: int | None) -> list[str]:
    """Return why each candidate was or was not chosen.

    `limit`: how many requests a replica gets at a time now; it may have been different then.
    """
    best = next((each for each in candidates if each.replica == chosen), None)
    if best is None:
        return [f"not {each.replica}: {_alone(each)}" for each in candidates]
    told = []
    for each in candidates:
        if each is best:
            told.append(f"{chosen} was chosen: {_facts(each)}{_despite(candidates, best)}")
        else:
            told.append(f"not {each.replica}: {_why_not(candidates, best, each, limit)}")
    return told


def _alone(each: ReplicaCandidate) -> str:
    return f"{_doubt(each)} ({_facts(each)})" if each.avoided else _facts(each)


def _why_not(
    candidates: Sequence[ReplicaCandidate],
    best: ReplicaCandidate,
    each: ReplicaCandidate,
    limit: int | None,
) -> str:
    facts = f"({_facts(each)})"
    if doubtful(each) > doubtful(best) or (each.avoided and each.doubt == Doubt.STALLED):
        return f"{_doubt(each)} {facts}"
    full = limit is not None and each.in_flight >= limit > best.in_flight
    if full or doubtful(each) < doubtful(best):
        return (
            f"it has as many requests as allowed {facts}"  # otherwise it would have been preferred
        )
    alike = f"{_doubt(each)} as well, and " if each.avoided else ""
    peers = [other for other in candidates if doubtful(other) == doubtful(best)]
    if limit is not None and best.in_flight < limit:
        peers = [other for other in peers if other.in_flight < limit]
    return alike + _among_peers(peers, best, each, facts)


def _among_peers(
    peers: Sequence[ReplicaCandidate], best: ReplicaCandidate, each: ReplicaCandidate, facts: str
) -> str:
    """Return why a candidate was not chosen by load and prefix."""
    least = min(other.load for other in peers)
    near = [other for other in peers if other.prefix and other.load <= 2 * least + SLACK]
    roomy = [other for other in near if other.cache < CACHE_FULL] or near
    if near and best in roomy:
        if each.prefix > best.prefix:
            why = "its cache is full" if each in near else "it is clearly busier"
            return f"{why} {facts}"
        if each.prefix < best.prefix:
            return f"{best.replica} has processed more of the prompt {facts}"
        if each not in roomy:
            why = "its cache is full" if each in near else "it is clearly busier"
            return f"{why} {facts}"
    if each.load > best.load:
        return f"it is busier {facts}"
    if each.load == best.load:
        return f"as good {facts}, but {best.replica} was drawn"
    return f"{facts[1:-1]}"  # it was chosen by earlier rules: only the known facts can be shown


def _despite(candidates: Sequence[ReplicaCandidate], chosen: ReplicaCandidate) -> str:
    """Return why an avoided replica was chosen."""
    if not chosen.avoided:
        return ""
    better = any(doubtful(each) < doubtful(chosen) for each in candidates)
    why = (
        "the preferred replicas have as many requests as allowed"
        if better
        else ("there is no better one")
    )
    return f", although {_doubt(chosen)}: {why}"


def _doubt(each: ReplicaCandidate) -> str:
    return _DOUBTS.get(each.doubt, _DOUBT)


def _facts(each: ReplicaCandidate) -> str:
    facts = f"{each.in_flight} in flight"
    if each.waiting:
        facts += f", {each.waiting} waiting in its engine"
    if each.cache:
        facts += f", cache {each.cache:.0%} full"
    if each.prefix:
        facts += f", {each.prefix} bytes of the prompt processed before"
    return facts
