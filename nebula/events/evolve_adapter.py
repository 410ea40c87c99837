"""The fold of adapters: which version of its files an adapter's name stands for, and since when.

A name stands for one version at a time, whichever replica answers (ADR 39). A new version is loaded
beside it; once every replica that serves the name has it, the name moves. If one of them can't load
it, the name stays with the previous version, and the request has failed.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, assert_never

from msgspec.structs import replace

from nebula.events.brief import brief
from nebula.events.intents import ModelLoadRequested
from nebula.events.record import Record
from nebula.events.state import AdapterStatus, Model, Offer, Replica, State, launch_of
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, AdapterUnloaded

AdapterReport: TypeAlias = AdapterLoaded | AdapterLoadFailed | AdapterUnloaded

_REMEDY = "make them the same on all nodes, then ask for the adapter again"

SHOWN = 12
"""Digits of a digest that are shown to people."""


def short(digest: str) -> str:
    """Return a version's digest in the short form for people."""
    return digest[:SHOWN] if digest else "an unknown version"


def serves(status: AdapterStatus | None, offer: Offer | None) -> bool:
    """Return whether a replica has loaded the version that an adapter's name stands for.

    A version that was loaded before digests were reported counts as that version.
    """
    if status is None or not status.loaded:
        return False
    if offer is None or not offer.digest or not status.held:
        return offer is None or offer.served > 0
    return offer.served > 0 and offer.digest in status.held


def asked(known: Mapping[str, Offer], sources: Mapping[str, str], seq: int) -> dict[str, Offer]:
    """Return the offers of these adapters after the event at `seq` has requested them."""
    return {name: replace(known.get(name, Offer()), asked=seq) for name in sources}


def staying(model: Model, request: ModelLoadRequested) -> dict[str, str]:
    """Return the adapters of a model that a load request has no say in.

    They were loaded at run time: no load request has named them from where they come. Where the
    request wants no adapters at all, or takes a name of theirs, they go all the same.
    """
    if model.unloading or request.lora is False:
        return {}
    taken = {request.name or model.id, *(each.name for each in request.adapters)}
    named = {(each.name, each.source) for each in model.spec.adapters}
    return {
        name: source
        for name, source in model.adapters.items()
        if name not in taken and (name, source) not in named
    }


def leaving(state: State, model: Model, request: ModelLoadRequested) -> dict[str, str]:
    """Return the adapters that a load request takes off once its replicas serve.

    A version that no serving replica has loaded can't answer: that goes at once.
    """
    if model.unloading:
        return {}
    taken = {request.name or model.id, *(each.name for each in request.adapters)}
    stay = staying(model, request)
    serving = [replica for replica in state.replicas_of(model) if replica.serving]
    return {
        name: source
        for name, source in {**model.leaving, **model.adapters}.items()
        if name not in taken
        and name not in stay
        and any(serves(each.adapters.get(name), model.offers.get(name)) for each in serving)
    }


def held(
    offers: Mapping[str, Offer], stay: Mapping[str, str], leave: Mapping[str, str]
) -> dict[str, Offer]:
    """Return the offers of the adapters that stay, and of those that leave as they answer now."""
    kept = {name: offer for name, offer in offers.items() if name in stay}
    goes = {name: offers[name] for name in leave if name in offers}
    return kept | {name: replace(offer, asked=offer.served) for name, offer in goes.items()}


def forgive(state: State, model: Model, only: str = "") -> State:
    """Clear recorded failures of all adapters, or of one.

    A re-requested adapter is tried again; an unloaded one is no longer reported as missing.
    """
    for replica in state.replicas_of(model):
        for status in replica.adapters.values():
            if status.reason or not status.loaded:
                break
        else:
            continue
        adapters = {
            name: replace(status, reason="") if status.reason and _meant(name, only) else status
            for name, status in replica.adapters.items()
            if status.loaded or not _meant(name, only)
        }
        if adapters != replica.adapters:
            state = _put(state, replace(replica, adapters=adapters))
    return state


def _meant(name: str, only: str) -> bool:
    return not only or name == only


def other_version(node: str, there: str, wanted: str) -> str:
    """Return a sentence about a node whose files differ from the wanted ones, and what to do.

    Requesting it again is not enough: a replica without any version does not influence to which
    version the name moves.
    """
    return (
        f"its files on {node} are version {short(there)}, and {short(wanted)} is wanted: {_REMEDY}"
    )


def fold_adapter(state: State, replica: Replica, record: Record, event: AdapterReport) -> State:
    """Fold a report on an adapter of a replica; no decision follows from it."""
    seq, time = record.seq, record.time
    model, name = state.models.get(replica.model), event.name
    offer = model.offers.get(name) if model is not None else None
    known = replica.adapters.get(name)
    status: AdapterStatus | None
    match event:
        case AdapterLoaded():
            number = event.asked or _answered(model, offer, event)
            status = _loaded(known, event, number)
            if model is not None and offer is not None and number == offer.served:
                if event.digest and not offer.digest:
                    offers = {**model.offers, name: replace(offer, digest=event.digest)}
                    model = replace(model, offers=offers)
                    state = replace(state, models=state.models.insert(model.id, model))
                elif event.digest != offer.digest:
                    reason = other_version(replica.node, event.digest, offer.digest)
                    status = replace(status, reason=reason)
        case AdapterLoadFailed(source=source, reason=reason):
            number = event.asked or _answered(model, offer, event)
            if offer is None or not number or number not in (offer.asked, offer.served):
                # It is no longer wanted from there: its failure does not matter.
                return replace(state, seq=seq, time=time)
            last = known if known is not None and known.loaded else AdapterStatus(source, False)
            status = replace(last, reason=brief(reason), asked=number)
        case AdapterUnloaded(digest=digest):
            status = _unloaded(known, digest)
        case _:
            assert_never(event)
    adapters = {**replica.adapters}
    adapters.pop(name, None)  # the report that is newest comes last
    if status is not None:
        adapters[name] = status
    replica = replace(replica, adapters=adapters, changed=seq, since=time)
    replicas = state.replicas.insert(replica.id, replica)
    state = replace(state, seq=seq, time=time, replicas=replicas)
    return state if model is None else settled(state, model)


def _answered(
    model: Model | None, offer: Offer | None, event: AdapterLoaded | AdapterLoadFailed
) -> int:
    """Return which request the report of an older node answers, which does not say: the last."""
    if model is None or offer is None:
        return 0
    return offer.asked if model.adapters.get(event.name) == event.source else 0


def _loaded(known: AdapterStatus | None, event: AdapterLoaded, number: int) -> AdapterStatus:
    held = known.held if known is not None else ()
    if event.digest and event.digest not in held:
        held = (*held, event.digest)
    return AdapterStatus(
        event.source,
        loaded=True,
        digest=event.digest,
        asked=number,
        held=held if event.digest else (),
    )


def _unloaded(known: AdapterStatus | None, digest: str) -> AdapterStatus | None:
    if known is None or not digest:
        return None
    held = tuple([each for each in known.held if each != digest])
    if held or not known.held:
        return replace(known, held=held)
    return replace(known, loaded=False, held=()) if known.reason else None


def settled(state: State, model: Model) -> State:
    """Move the names of a model's adapters to versions that are loaded everywhere, or give them up.

    It is due after every event that changes loaded versions or serving replicas.
    """
    if model.leaving:
        state, model = _departed(state, model)
    for offer in model.offers.values():
        if offer.asked != offer.served:
            return _moved_on(state, model)
    return state


def _moved_on(state: State, model: Model) -> State:
    """Move the names for which a version was asked that they do not stand for yet."""
    serving = [replica for replica in state.replicas_of(model) if replica.serving]
    if not serving:
        return state
    for name, offer in model.offers.items():
        new = _next(name, offer, serving) if offer.asked != offer.served else None
        if new is None:
            continue
        if new.kept:
            new = replace(new, refused=model.adapters[name])
        adapters = {**model.adapters, name: new.source}
        model = replace(model, offers={**model.offers, name: new}, adapters=adapters)
        state = replace(state, models=state.models.insert(model.id, model))
    return state


def _departed(state: State, model: Model) -> tuple[State, Model]:
    """Take off what a load request no longer names, once all that serves is what it asked for."""
    if model.requested_seq > model.planned_seq:
        return state, model
    launch = launch_of(model)
    serving = [replica for replica in state.replicas_of(model) if replica.serving]
    before = any(replica.launch != launch for replica in serving)
    if model.assignments and (before or not serving):
        return state, model
    names = state.names
    for name in model.leaving:
        names = names.discard(name)
    offers = {key: offer for key, offer in model.offers.items() if key not in model.leaving}
    model = replace(model, leaving={}, offers=offers)
    return replace(state, names=names, models=state.models.insert(model.id, model)), model


def _next(name: str, offer: Offer, serving: Sequence[Replica]) -> Offer | None:
    """Return the outcome of a waiting offer; None while it is open."""
    voters = [each for each in serving if offer.served and serves(each.adapters.get(name), offer)]
    answers = [
        (each, status)
        for each in voters or serving
        if (status := each.adapters.get(name)) is not None and status.asked == offer.asked
    ]
    if not answers:
        return None
    loaded = [status for _, status in answers if not status.reason]
    if not voters:
        first = loaded[0] if loaded else None
        return _moved(offer, first) if first is not None else None
    for replica, status in answers:
        if status.reason:
            return _kept(offer, f"{replica.id} on {replica.node}: {status.reason}")
    if len(loaded) < len(voters):
        return None
    if len({status.digest for status in loaded}) > 1:
        finders = {status.digest: replica for replica, status in reversed(answers)}
        versions = ", ".join(
            f"{finders[digest].id} on {finders[digest].node} found {short(digest)}"
            for digest in dict.fromkeys(status.digest for _, status in answers)
        )
        return _kept(offer, f"its files are not the same everywhere: {versions}: {_REMEDY}")
    return _moved(offer, loaded[0])


def _moved(offer: Offer, status: AdapterStatus) -> Offer:
    return Offer(offer.asked, offer.asked, status.source, status.digest)


def _kept(offer: Offer, reason: str) -> Offer:
    return replace(offer, asked=offer.served, tried=offer.asked, kept=brief(reason))


def _put(state: State, replica: Replica) -> State:
    return replace(state, replicas=state.replicas.insert(replica.id, replica))
