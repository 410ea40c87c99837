"""The timeouts of a request in flight: whether to wait, try again, look for pieces, or fail. Pure.

One deadline holds for all that may go wrong: RECOVERY seconds after the last sign of life. Waiting,
look-ups and further attempts share that time.
"""

from enum import StrEnum

from nebula.actors.gateway.addressing import silent_with_it
from nebula.actors.gateway.heartbeats import Heartbeats, Link
from nebula.actors.gateway.in_flight import InFlightRequest, Phase, Surroundings
from nebula.events.failures import Failure
from nebula.events.state import Engine, State

TICK = 0.25
"""Seconds between two checks of each request."""

RECOVERY = 10.0
"""Seconds after the last sign of life within which a request continues or ends."""

ACCEPT = (2.0, 4.0, 4.0, 5.0)
"""Seconds within which a replica or router must confirm a request, for each try; the last value is
for all further tries. A router that dies loses the requests on their way through it, and so does
one that does not hear the replicas, until it has moved to another NATS server."""

UNTAKEN = sum(ACCEPT)
"""Seconds after which an untaken request is given up, unless its queue timeout is longer."""

UNTAKEN_MOST = 30.0
"""As UNTAKEN, but whatever the queue timeout is: that is for starting engines, and no router was
reached to start one."""

AFRESH = ACCEPT[0] + ACCEPT[1]
"""Least number of seconds that a request has left when its engine falls silent: two tries."""

SILENCE = RECOVERY
"""Seconds without a heartbeat of the serving replica after which its attempt is given up."""

SILENCE_ALONE = 20.0
"""As SILENCE, if all other replicas are silent too: the engine may only pause."""

SILENCE_WHEN_LOST = 5.0
"""As SILENCE, if the replica's node is lost: two heartbeats of the replica are missing then."""

HEARD_LATELY = 5.0
"""Seconds since its last heartbeat within which a replica can continue another's answer; also how
long a gateway that was cut off listens before it calls an actor silent."""

ROUTER_SILENCE = 3.5
"""Seconds without a heartbeat of a router after which the requests in its queue are sent again."""

UNASKED = 3.0
"""Seconds after an engine last mentioned a request within which its heartbeat must come with
another mention; otherwise the request counts as lost. Engines ask about their requests with every
heartbeat."""

NATS = RECOVERY
"""Seconds after the last sign of life for which requests under way wait for NATS."""

RECONNECTING = 5.0
"""Least number of seconds to reach another NATS server after a loss is noticed."""

LOOK_UP = (1.0, 4.0)
"""Least and most seconds for a look-up of missing pieces, which lie in memory."""

DETOKENIZE = (3.0, RECOVERY)
"""Least and most seconds for asking an engine for the text of the last tokens."""

_IN_STEP = 1.0
"""Seconds by which a router and a gateway may differ about when a request began to wait."""

_SILENT = 3.0
"""Seconds of silence that are worth reporting: more than any heartbeat takes."""

_NAMED = 3


class Verdict(StrEnum):
    """What to do with a request that does not fail.

    LOOK_UP: pieces were sent that have not arrived. TRY_AGAIN: it was lost on its way to a replica.
    ENGINE_GONE: its engine is another process by now. ENGINE_SILENT: its engine is not heard any
    more.
    """

    WAIT = "wait"
    LOOK_UP = "look up"
    TRY_AGAIN = "try again"
    ENGINE_GONE = "engine gone"
    ENGINE_SILENT = "engine silent"


def check(flight: InFlightRequest, now: float, around: Surroundings) -> Verdict | Failure:
    """Return what to do with a request under way; record its engine's pid."""
    link, heartbeats = around.link, around.heartbeats
    if flight.deadline is not None and now > flight.deadline:
        return Failure.OVERDUE
    if not link.connected:
        lost = _nats_is_lost(now, link, heartbeats)
        return Failure.NATS_LOST if lost else Verdict.WAIT
    match flight.phase:
        case Phase.TAKEN | Phase.ANSWERING:
            return _of_engine(flight, now, around)
        case Phase.QUEUED:
            return _in_line(flight, now, heartbeats)
        case Phase.SENT:
            return _of_sent(flight, now, heartbeats)
        case _:
            return Verdict.WAIT


def _of_sent(flight: InFlightRequest, now: float, heartbeats: Heartbeats) -> Verdict | Failure:
    if now - flight.orphaned_at > _budget(flight):
        return Failure.NOT_TAKEN
    if silent_with_it(heartbeats.routers(), flight.router, flight.sent_at, now):
        return Verdict.TRY_AGAIN
    patience = ACCEPT[min(flight.lost, len(ACCEPT) - 1)]
    return Verdict.TRY_AGAIN if now - flight.sent_at > patience else Verdict.WAIT


def _budget(flight: InFlightRequest) -> float:
    """Return the seconds after which a request that no router or replica has is given up."""
    return max(UNTAKEN, min(flight.answer.request.patience, UNTAKEN_MOST))


def orphaned_at(flight: InFlightRequest, now: float, heartbeats: Heartbeats) -> float:
    """Return since when no actor has had a request whose engine, or router, fell silent.

    This counts from the last sign of life, so that waiting and finding another engine share one
    budget; at least AFRESH seconds of it are left.
    """
    answer = flight.answer
    if answer.queued:
        last_sign = flight.unlined_at
        if last_sign is None:
            last_sign = now - heartbeats.router_silent(answer.queued, flight.heard_at)
    else:
        beat = heartbeats.replica_beat(answer.replica, flight.pid or 0)
        last_sign = max(flight.heard_at, flight.asked_at, beat)
    return max(last_sign, now - _budget(flight) + AFRESH)


def _in_line(flight: InFlightRequest, now: float, heartbeats: Heartbeats) -> Verdict | Failure:
    if heartbeats.router_silent(flight.answer.queued, flight.heard_at) > ROUTER_SILENCE:
        return Verdict.TRY_AGAIN
    if now - flight.heard_at > flight.request.patience + UNASKED:
        return Failure.NOT_TAKEN  # its router says so itself, where it still has it then
    return Verdict.TRY_AGAIN if _left_its_line(flight, heartbeats) else Verdict.WAIT


def _left_its_line(flight: InFlightRequest, heartbeats: Heartbeats) -> bool:
    """Return whether a request has left its router's queue and no message about that has arrived.

    The engine's confirmation may be lost. If the router's heartbeats report no request that has
    waited as long, for the duration of a try, the request is not in its queue. Record when such a
    heartbeat first came.
    """
    told_at, line = heartbeats.line(flight.answer.queued, flight.request.model)
    if told_at <= flight.heard_at:
        return False
    slack = flight.request.slack
    oldest = 0.0 if line is None else line.slack_oldest if slack else line.oldest
    if line is not None and told_at - oldest <= flight.heard_at + _IN_STEP:
        flight.unlined_at = None
    elif flight.unlined_at is None:
        flight.unlined_at = told_at
    return flight.unlined_at is not None and told_at - flight.unlined_at >= ACCEPT[0]


def _nats_is_lost(now: float, link: Link, heartbeats: Heartbeats) -> bool:
    """Return whether NATS has been away for too long; a loss may be noticed late."""
    if link.lost_at is None:
        return False
    last_sign = heartbeats.heard_at or link.lost_at
    return now > max(last_sign + NATS, link.lost_at + RECONNECTING)


def _of_engine(flight: InFlightRequest, now: float, around: Surroundings) -> Verdict | Failure:
    state, heartbeats = around.state, around.heartbeats
    serving = flight.answer.replica
    replica = state.replicas.get(serving)
    engine = replica.engine if replica is not None else None
    if replica is None or engine is None or flight.pid not in (None, engine.pid):
        return Verdict.ENGINE_GONE
    if flight.pid is None:
        flight.pid, flight.state = engine.pid, state
    node = state.nodes.get(replica.node)
    patience = SILENCE_WHEN_LOST if node is None or node.away else SILENCE
    # The second is what this gateway could have heard of it: nothing, where it was cut off itself.
    silent, listened = _silence(serving, engine, now, heartbeats)
    silent = min(silent, now - max(flight.heard_at, flight.asked_at))
    if silent > patience and listened > min(patience, HEARD_LATELY):
        alone = patience == SILENCE and not _another(flight, heartbeats, state)
        if not alone or min(silent, listened) > SILENCE_ALONE:
            return Verdict.ENGINE_SILENT
    if now - flight.heard_at > flight.idle:
        return Failure.IDLE
    known = max(flight.asked_at, flight.heard_at, around.link.connected_at)
    unasked = heartbeats.replica_beat(serving, engine.pid) - known > UNASKED
    return Verdict.LOOK_UP if unasked else Verdict.WAIT


def _silence(
    replica: str, engine: Engine, now: float, heartbeats: Heartbeats
) -> tuple[float, float]:
    """Return for how many seconds an engine was silent, and for how many it could have been heard.

    Both are 0 for an engine that was never heard.
    """
    beat = heartbeats.replica_beat(replica, engine.pid)
    return (now - beat if beat else 0.0), heartbeats.replica_silent(replica, engine.pid)


def _another(flight: InFlightRequest, heartbeats: Heartbeats, state: State) -> bool:
    """Return whether another replica of the model could continue: a replica that is not silent."""
    model = state.models.get(flight.request.model)
    for identity in model.replicas if model is not None else ():
        replica = state.replicas.get(identity)
        engine = replica.engine if replica is not None and replica.serving else None
        if identity == flight.answer.replica or engine is None:
            continue
        if heartbeats.replica_silent(identity, engine.pid) <= HEARD_LATELY:
            return True
    return False


def left(flight: InFlightRequest, now: float) -> float:
    """Return the seconds that are left to get a request going again; negative if it is late.

    They count from the last piece or message about the answer: the client waits for it whether the
    engine lives or not.
    """
    return flight.heard_at + RECOVERY - now


def within(bounds: tuple[float, float], seconds: float) -> float:
    """Return `seconds`, limited to the bounds."""
    least, most = bounds
    return max(least, min(most, seconds))


def seen(flight: InFlightRequest, now: float, around: Surroundings) -> str:
    """Return in words which actors had a failed request, if one of them has fallen silent."""
    heartbeats, state = around.heartbeats, around.state
    answer = flight.answer
    if answer.replica:
        replica = state.replicas.get(answer.replica)
        engine = replica.engine if replica is not None else None
        silent = _silence(answer.replica, engine, now, heartbeats)[0] if engine is not None else 0.0
        return f"{answer.replica}, which has it, {_unheard(silent)}" if silent > _SILENT else ""
    if answer.queued:
        silent = heartbeats.router_silent(answer.queued, flight.began)
        line = f"{answer.queued}, in whose line it waits, {_unheard(silent)}"
        return line if silent > _SILENT else ""
    told = [
        *_of_routers(flight, now, heartbeats),
        *_of_replicas(flight, now, heartbeats, state),
    ]
    return "; ".join(told)


def _of_routers(flight: InFlightRequest, now: float, heartbeats: Heartbeats) -> list[str]:
    asked = dict.fromkeys(each for each in (*flight.tried, flight.router) if each)
    told = []
    for name in list(asked)[-_NAMED:]:
        silent = heartbeats.router_silent(name, flight.began)
        had = f"{name}, which it was sent to,"
        told.append(
            f"{had} {_unheard(silent)}"
            if silent > _SILENT
            else f"{had} is there, and no replica has said that it has it"
        )
    others = [each for each in heartbeats.routers() if each.name not in asked]
    silent = now - max((each.at for each in heartbeats.routers()), default=flight.began)
    if asked or silent <= _SILENT:
        return told
    named = ", ".join(each.name for each in others[:_NAMED])
    return [f"no router ({named}) has been heard from for {silent:.0f} s" if named else _NONE]


_NONE = "no router has been heard from"


def _of_replicas(
    flight: InFlightRequest, now: float, heartbeats: Heartbeats, state: State
) -> list[str]:
    model = state.models.get(flight.request.model)
    told = []
    for identity in model.replicas if model is not None else ():
        replica = state.replicas.get(identity)
        if replica is None or replica.engine is None or not replica.serving:
            continue
        silent, _ = _silence(identity, replica.engine, now, heartbeats)
        if silent > _SILENT:
            told.append(f"{identity} {_unheard(silent)}")
    return told[:_NAMED]


def _unheard(seconds: float) -> str:
    return f"has not been heard from for {seconds:.0f} s"
