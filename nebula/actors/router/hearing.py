"""Measures how long nodes have been silent to a router; every sign of life counts.

Signs of life are a heartbeat that it hears, an event of the node in the log, a new stored
heartbeat, and reports of other routers that hear the node. Their times are seconds of this router's
clock; no other machine's clock is used. What was not reported is unknown, and nothing is concluded
from it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from msgspec import Struct

from nebula.events.record import Record
from nebula.events.state import Node, State
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    NodeHeard,
    NodeRegistered,
    ReplicaEvent,
    WeightsRemoved,
)

FRESH = 5.0
"""Seconds after a sign of life for which a node counts as heard: more than two heartbeats."""

MOST_TOLD = 100
"""Silent nodes in a router's heartbeat, at most; with more it reports nothing about nodes."""

KEPT = 300.0
"""Seconds for which another router's last report on nodes counts."""

NEVER = -1.0
"""The value for a node that was not heard since the router began to listen."""

Told: TypeAlias = Mapping[str, float] | None
"""Seconds of silence by node; the router hears all others. None: it reports nothing."""

_OWN = (
    NodeRegistered
    | NodeHeard
    | DownloadStarted
    | DownloadWaits
    | DownloadProgressed
    | DownloadFinished
    | DownloadFailed
    | WeightsRemoved
)


class Silence(Struct, frozen=True):
    """How long a node has been silent, in seconds, and what else is known.

    `sign`: its last sign of life; empty if there was none since the router began to listen.
    `asked`: seconds since the suspicion at the sequence `suspicion` was folded here. `calm`:
    seconds since it was last lost or falsely suspected, as far as this router knows. `routers`:
    what the other heard routers report about it, None if a router reports nothing.
    """

    seconds: float
    sign: str = ""
    suspicion: int = 0
    asked: float = 0.0
    calm: float = 0.0
    routers: Mapping[str, float | None] = {}


class Hearing:
    """What one router has heard of nodes."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin to listen; `now` returns seconds of a monotonic clock."""
        self._now = now
        self._since = now()
        self._ear: dict[str, float] = {}
        self._signs: dict[str, tuple[float, str]] = {}
        self._stored: dict[str, int] = {}
        self._told: dict[str, tuple[float, Told]] = {}
        self._suspicions: dict[str, tuple[int, float]] = {}
        self._doubted: dict[str, tuple[int, float]] = {}
        self._registered: dict[str, int] = {}

    def restart(self) -> None:
        """Count every silence from now on: nothing could be heard until now."""
        self._since = self._now()
        self._suspicions.clear()
        self._doubted.clear()

    def on_heartbeat(self, node: str) -> None:
        """Take a node's heartbeat."""
        self._ear[node] = self._now()

    def on_record(self, record: Record) -> None:
        """Take an entry of the log: an event of a node shows that the node is alive."""
        event = record.content
        if reporter := record.node or (event.node if isinstance(event, ReplicaEvent) else ""):
            self._sign(reporter, f"its {record.type} in the log")
        elif isinstance(event, _OWN):
            self._sign(record.id, f"its {record.type} in the log")

    def on_stored(self, node: str, seq: int) -> None:
        """Take the sequence of a node's stored heartbeat: a new one is a sign of life."""
        known = self._stored.get(node)
        self._stored[node] = seq
        if known is not None and known != seq:
            self._sign(node, "its stored heartbeat")

    def on_told(self, router: str, silent: Told) -> None:
        """Take another router's report on nodes."""
        self._told[router] = (self._now(), silent)

    def tell(self, state: State) -> Told:
        """Return what this router itself hears, for its heartbeat."""
        now, told = self._now(), dict[str, float]()
        for identity, node in state.nodes.items():
            heard = self._ear.get(identity)
            if node.away or (heard is not None and now - heard <= FRESH):
                continue
            if len(told) == MOST_TOLD:
                return None
            told[identity] = NEVER if heard is None else round(now - heard, 1)
        return told

    def doubtful(self, state: State) -> list[str]:
        """Return the nodes that are not heard, so that their stored heartbeats are looked up."""
        now = self._now()
        return sorted(
            identity
            for identity, node in state.nodes.items()
            if not node.away and now - self._ear.get(identity, self._since) > FRESH
        )

    def silences(self, state: State, routers: Iterable[str]) -> dict[str, Silence]:
        """Return how long each node has been silent; `routers`: the other heard routers."""
        now, nodes, routers = self._now(), state.nodes, sorted(routers)
        self._forget(state, now)
        found: dict[str, Silence] = {}
        for identity, node in nodes.items():
            known = self._registered.get(identity)
            if known != node.registered:
                self._registered[identity] = node.registered
                if identity not in self._signs or known is not None:
                    self._sign(identity, "" if known is None else "its registration in the log")
            at, sign = self._last(identity)
            suspicion, asked = self._asked(node, now)
            telling = {router: self._of(router, identity, now) for router in routers}
            found[identity] = Silence(
                now - at,
                sign,
                suspicion,
                asked,
                now - self._counted(self._doubted, identity, node.doubted, now),
                telling if now - at > FRESH else {},
            )
        return found

    def _sign(self, node: str, what: str) -> None:
        self._signs[node] = (self._now(), what)

    def _last(self, node: str) -> tuple[float, str]:
        """Return when a node's last sign of life arrived, and what it was."""
        last = max((self._since, ""), self._signs.get(node, (self._since, "")))
        heard = self._ear.get(node)
        if heard is not None:
            last = max(last, (heard, "its heartbeat"))
        for router, (at, silent) in self._told.items():
            if silent is not None and (seconds := silent.get(node, 0.0)) >= 0:
                last = max(last, (at - seconds, f"{router} heard it"))
        return last

    def _of(self, router: str, node: str, now: float) -> float | None:
        """Return how long another router has not heard a node, None if it does not report it."""
        at, silent = self._told.get(router, (now, None))
        seconds = NEVER if silent is None else silent.get(node, 0.0)
        return None if seconds < 0 else now - at + seconds

    def _asked(self, node: Node, now: float) -> tuple[int, float]:
        if not node.suspected:
            return 0, 0.0
        return node.suspected, now - self._counted(self._suspicions, node.id, node.suspected, now)

    def _counted(
        self, since: dict[str, tuple[int, float]], node: str, what: int, now: float
    ) -> float:
        """Return since when a fact has been unchanged here."""
        known = since.get(node)
        if known is None or known[0] != what:
            known = since[node] = (what, now)
        return known[1]

    def _forget(self, state: State, now: float) -> None:
        for kept in (
            self._ear,
            self._signs,
            self._stored,
            self._suspicions,
            self._doubted,
            self._registered,
        ):
            for gone in [node for node in kept if node not in state.nodes]:
                del kept[gone]
        for router in [each for each, (at, _) in self._told.items() if now - at > KEPT]:
            del self._told[router]
