"""For how long a gateway waits for whom: what is to become of a request about which none is heard.

Pure: it reads what is known, and gives a verdict that the gateway carries out. What goes wrong with
a request that is under way has one deadline, RECOVERY seconds after the last sign of life: whatever
is waited for and looked up meanwhile shares that time, and does not add to it.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.gateway.addressing import silent_with_it
from nebula.actors.gateway.exchange import Exchange
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.events.state import Engine, State

RECOVERY = 10.0
"""Seconds after the last sign of life within which a request goes on, or ends."""

ACCEPT = (2.0, 4.0, 9.0)
"""Seconds within which some replica or router must have said that it has the request, try by try:
a router that dies takes the requests that are on their way through it with it. The last is that of
all further tries."""

UNTAKEN = sum(ACCEPT)
"""Seconds after which a request that nobody takes is given up, unless its patience is longer."""

SILENCE = RECOVERY
"""Seconds without a heartbeat of the serving replica after which its attempt is given up."""

SILENCE_ALONE = 20.0
"""As SILENCE, of a replica beside which all are silent: it may only pause, and has all so far."""

SILENCE_WHEN_LOST = 5.0
"""As SILENCE, of a replica whose node is lost: two of its heartbeats are missing then."""

HEARD_LATELY = 5.0
"""Seconds since its last heartbeat within which a replica can go on with what another had. As long
a gateway that was cut off listens before it holds anybody silent."""

ROUTER_SILENCE = 3.5
"""Seconds without a heartbeat of a router after which those in its line are sent again."""

UNASKED = 3.0
"""Seconds between the last sign of a request from its engine and a heartbeat of that engine after
which the request counts as lost: with every heartbeat engines ask about what they have."""

NATS = RECOVERY
"""Seconds after the last sign of life for which requests that are under way wait for NATS."""

RECONNECTING = 5.0
"""Seconds that there are, at least, to reach another NATS server once the loss has been noticed."""

LOOK_UP = (1.0, 4.0)
"""Seconds, at least and at most, to look up pieces that are missing: they lie in memory."""

DETOKENIZE = (3.0, RECOVERY)
"""Seconds, at least and at most, for asking an engine for the text of an answer's last tokens."""

_SILENT = 3.0
"""Seconds of silence from which on it is worth telling: more than any heartbeat takes."""

_NAMED = 3

Verdict: TypeAlias = Literal[
    "wait",
    "overdue",
    "idle",
    "nats-lost",
    "recover",
    "engine-failed",
    "engine-silent",
    "not-taken",
    "try-again",
    "fill",
]
"""`recover`: its attempt is broken already. `fill`: pieces of it must be there that were not heard.
`try-again`: it got lost on its way to a replica. The others: what it fails with."""


class Link(Struct, frozen=True):
    """The connection to NATS: whether it is there, and since when (it is there, or was lost)."""

    connected: bool
    connected_at: float
    lost_at: float | None


def judge(
    exchange: Exchange, now: float, link: Link, heartbeats: Heartbeats, state: State
) -> Verdict:
    """Return what is to become of a request under way. It takes note of its engine's pid."""
    answer = exchange.answer
    if exchange.deadline is not None and now > exchange.deadline:
        return "overdue"
    if not link.connected:
        return "nats-lost" if _nats_is_lost(now, link, heartbeats) else "wait"
    if answer.broken is not None:
        return "recover"
    if answer.replica:
        return _of_engine(exchange, now, link, heartbeats, state)
    if answer.queued:
        silent = heartbeats.router_silent(answer.queued, exchange.heard_at)
        return "try-again" if silent > ROUTER_SILENCE else "wait"
    if now - exchange.orphaned_at > max(UNTAKEN, answer.request.patience):
        return "not-taken"
    if silent_with_it(heartbeats.routers(), exchange.router, exchange.sent_at, now):
        return "try-again"
    patience = ACCEPT[min(exchange.lost, len(ACCEPT) - 1)]
    return "try-again" if now - exchange.sent_at > patience else "wait"


def _nats_is_lost(now: float, link: Link, heartbeats: Heartbeats) -> bool:
    """Return whether NATS has been away for too long: a loss may be noticed late."""
    if link.lost_at is None:
        return False
    last_sign = heartbeats.heard_at or link.lost_at
    return now > max(last_sign + NATS, link.lost_at + RECONNECTING)


def _of_engine(
    exchange: Exchange, now: float, link: Link, heartbeats: Heartbeats, state: State
) -> Verdict:
    serving = exchange.answer.replica
    replica = state.replicas.get(serving)
    engine = replica.engine if replica is not None else None
    if replica is None or engine is None or exchange.pid not in (None, engine.pid):
        return "engine-failed"
    exchange.pid = engine.pid
    node = state.nodes.get(replica.node)
    patience = SILENCE_WHEN_LOST if node is None or node.lost else SILENCE
    # The second is what this gateway could have heard of it: nothing, where it was cut off itself.
    silent, listened = _silence(serving, engine, now, heartbeats)
    silent = min(silent, now - max(exchange.heard_at, exchange.asked_at))
    if silent > patience and listened > min(patience, HEARD_LATELY):
        alone = patience == SILENCE and not _another(exchange, heartbeats, state)
        if not alone or min(silent, listened) > SILENCE_ALONE:
            return "engine-silent"
    if now - exchange.heard_at > exchange.idle:
        return "idle"
    known = max(exchange.asked_at, exchange.heard_at, link.connected_at)
    return "fill" if heartbeats.replica_beat(serving, engine.pid) - known > UNASKED else "wait"


def _silence(
    replica: str, engine: Engine, now: float, heartbeats: Heartbeats
) -> tuple[float, float]:
    """Return for how long (s) an engine was not heard, and for how long it could have been.

    Both are 0 for one that was never heard.
    """
    beat = heartbeats.replica_beat(replica, engine.pid)
    return (now - beat if beat else 0.0), heartbeats.replica_silent(replica, engine.pid)


def _another(exchange: Exchange, heartbeats: Heartbeats, state: State) -> bool:
    """Return whether another replica of the model could go on: none that is known to be silent."""
    model = state.models.get(exchange.request.model)
    for identity in model.replicas if model is not None else ():
        replica = state.replicas.get(identity)
        engine = replica.engine if replica is not None and replica.serving else None
        if identity == exchange.answer.replica or engine is None:
            continue
        if heartbeats.replica_silent(identity, engine.pid) <= HEARD_LATELY:
            return True
    return False


def left(exchange: Exchange, now: float) -> float:
    """Return the seconds that are left to get a request going again; below 0 where it is late.

    They count from what was last heard of its answer: that is what its client waits for, whether
    its engine lives or not.
    """
    return exchange.heard_at + RECOVERY - now


def within(bounds: tuple[float, float], seconds: float) -> float:
    """Return `seconds`, but no fewer and no more than the bounds."""
    least, most = bounds
    return max(least, min(most, seconds))


def seen(exchange: Exchange, now: float, heartbeats: Heartbeats, state: State) -> str:
    """Return in words who had a request that fails, as far as one of them has fallen silent."""
    answer = exchange.answer
    if answer.replica:
        replica = state.replicas.get(answer.replica)
        engine = replica.engine if replica is not None else None
        silent = _silence(answer.replica, engine, now, heartbeats)[0] if engine is not None else 0.0
        return f"{answer.replica}, which has it, {_unheard(silent)}" if silent > _SILENT else ""
    if answer.queued:
        silent = heartbeats.router_silent(answer.queued, exchange.began)
        line = f"{answer.queued}, in whose line it waits, {_unheard(silent)}"
        return line if silent > _SILENT else ""
    told = [
        *_of_routers(exchange, now, heartbeats),
        *_of_replicas(exchange, now, heartbeats, state),
    ]
    return "; ".join(told)


def _of_routers(exchange: Exchange, now: float, heartbeats: Heartbeats) -> list[str]:
    asked = dict.fromkeys(each for each in (*exchange.tried, exchange.router) if each)
    told = []
    for name in list(asked)[-_NAMED:]:
        silent = heartbeats.router_silent(name, exchange.began)
        had = f"{name}, which it was sent to,"
        told.append(
            f"{had} {_unheard(silent)}"
            if silent > _SILENT
            else f"{had} is there, and no replica has said that it has it"
        )
    others = [each for each in heartbeats.routers() if each.name not in asked]
    silent = now - max((each.at for each in heartbeats.routers()), default=exchange.began)
    if asked or silent <= _SILENT:
        return told
    named = ", ".join(each.name for each in others[:_NAMED])
    return [f"no router ({named}) has been heard from for {silent:.0f} s" if named else _NONE]


_NONE = "no router has been heard from"


def _of_replicas(exchange: Exchange, now: float, heartbeats: Heartbeats, state: State) -> list[str]:
    model = state.models.get(exchange.request.model)
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
