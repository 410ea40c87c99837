"""For how long a gateway waits for whom: what is to become of a request about which none is heard.

Pure: it reads what is known, and gives a verdict that the gateway carries out.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.gateway.addressing import silent_with_it
from nebula.actors.gateway.exchange import Exchange
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.events.state import State

ACCEPT = (2.0, 4.0, 9.0)
"""Seconds within which some replica or router must have said that it has the request, try by try:
a router that dies takes the requests that are on their way through it with it."""

SILENCE = 20.0
"""Seconds without a heartbeat of the serving replica after which its attempt is given up."""

SILENCE_WHEN_LOST = 5.0
"""As SILENCE, of a replica whose node is lost: two of its heartbeats are missing then."""

ROUTER_SILENCE = 3.5
"""Seconds without a heartbeat of a router after which those in its line are sent again."""

UNASKED = 3.0
"""Seconds between the last sign of a request from its engine and a heartbeat of that engine after
which the request counts as lost: with every heartbeat engines ask about what they have."""

NATS = 10.0
"""Seconds for which requests that are under way wait for NATS to come back."""

Verdict: TypeAlias = Literal[
    "wait", "overdue", "idle", "nats-lost", "recover", "engine-failed", "not-taken", "fill"
]
"""`recover`: its attempt is broken already. `fill`: pieces of it must be there that were not heard.
`not-taken`: it got lost on its way to a replica. The others: what it fails with."""


class Link(Struct, frozen=True):
    """The connection to NATS: whether it is there, and since when (it is there, or was lost)."""

    connected: bool
    connected_at: float
    lost_at: float | None


def judge(
    exchange: Exchange, now: float, link: Link, heartbeats: Heartbeats, state: State
) -> Verdict:
    """Say what is to become of a request that is under way. It takes note of its engine's pid."""
    answer = exchange.answer
    if exchange.deadline is not None and now > exchange.deadline:
        return "overdue"
    if not link.connected:
        return "nats-lost" if link.lost_at is not None and now - link.lost_at > NATS else "wait"
    if answer.broken is not None:
        return "recover"
    if answer.replica:
        return _of_engine(exchange, now, link, heartbeats, state)
    if answer.queued:
        silent = heartbeats.router_silent(answer.queued, exchange.heard_at)
        return "not-taken" if silent > ROUTER_SILENCE else "wait"
    if silent_with_it(heartbeats.routers(), exchange.router, exchange.sent_at, now):
        return "not-taken"
    return "not-taken" if now - exchange.sent_at > ACCEPT[exchange.lost] else "wait"


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
    if heartbeats.replica_silent(serving, engine.pid) > patience:
        return "engine-failed"
    if now - exchange.heard_at > exchange.idle:
        return "idle"
    known = max(exchange.asked_at, exchange.heard_at, link.connected_at)
    return "fill" if heartbeats.replica_beat(serving, engine.pid) - known > UNASKED else "wait"
