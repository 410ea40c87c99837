"""Clients: each request asks until it has an answer, as a gateway does for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from nebula.events import envelope, inference, subjects
from nebula.events.inference import Piece, Request
from nebula.events.record import parse_headers
from nebula.events.state import State
from tests.simulation.clock import Process, Signal
from tests.simulation.machine import Send
from tests.simulation.network import Link

GATEWAY = "gateway"
UNHEARD = 4.0
"""Seconds after which a request of which nobody has said anything is sent again."""

SILENT = 15.0
"""Seconds after which an engine that has a request and says nothing is given up."""

TIMEOUT = 60.0


class Asked(Struct):
    """One request: what became of it is `outcome`, and until then empty."""

    id: str
    model: str
    at: float
    outcome: str = ""
    attempts: int = 0


class Client(Process):
    """See the module. `lives` says whether a router does, as its heartbeats tell gateways."""

    def __init__(
        self, link: Link, send: Send, state: Callable[[], State], lives: Callable[[str], bool]
    ) -> None:
        super().__init__(link.clock)
        self.asked: list[Asked] = []
        self._link = link
        self._send = send
        self._state = state
        self._lives = lives
        self._heard: dict[str, list[Piece]] = {}
        self._signals: dict[str, Signal] = {}

    def ask(self, model: str, adapter: str = "") -> Asked:
        """Send a request."""
        asked = Asked(f"r{len(self.asked)}", model, self.clock.now)
        self.asked.append(asked)
        self.spawn(self._follow(asked, adapter))
        return asked

    def on_piece(self, identity: str, header: bytes, body: bytes) -> None:
        """Take a piece of an answer."""
        piece = envelope.read_piece(parse_headers(header), body)
        if piece is not None and identity in self._heard:
            self._heard[identity].append(piece)
            self._signals[identity].fire()

    def _follow(self, asked: Asked, adapter: str) -> Generator[Any, Any, None]:
        clock = self.clock
        request = Request(
            asked.id, GATEWAY, asked.model, "/v1/completions", b"", adapter, timeout=TIMEOUT
        )
        heard = self._heard[asked.id] = []
        signal = self._signals[asked.id] = Signal(clock)
        while not asked.outcome:
            asked.attempts = request.attempt
            header = envelope.block(envelope.request_headers(request))
            self._send(self._link, subjects.requests(request.model), header, b"")
            avoid = yield from self._await(asked, request, heard, signal)
            request = replace(
                request,
                attempt=request.attempt + 1,
                avoid=avoid,
                timeout=max(0.1, TIMEOUT - (clock.now - asked.at)),
            )
        del self._heard[asked.id], self._signals[asked.id]

    def _await(
        self, asked: Asked, request: Request, heard: list[Piece], signal: Signal
    ) -> Generator[Any, Any, str]:
        """Wait for one attempt's end; give whom to avoid with the next."""
        sent, replica, router, pid = self.clock.now, "", "", 0
        heard_at = sent
        while True:
            while heard:
                piece = heard.pop(0)
                if piece.attempt != request.attempt:
                    continue
                heard_at = self.clock.now
                if piece.failure == inference.REFUSED:
                    asked.outcome = f"refused: {piece.body.decode()}"
                elif piece.failure:
                    return replica
                elif piece.end:
                    asked.outcome = "answered"
                elif piece.replica:
                    replica, router, pid = piece.replica, "", self._pid(piece.replica)
                elif piece.queued:
                    router = piece.queued
            now = self.clock.now
            if not asked.outcome and now - asked.at > TIMEOUT + 5:
                asked.outcome = "timed out"
            if asked.outcome:
                return ""
            if replica and (self._pid(replica) != pid or now - heard_at > SILENT):
                return replica
            if router and not self._lives(router) and now - heard_at > 5:
                return ""
            if not (replica or router) and now - sent > UNHEARD:
                return ""
            yield (signal, 1.0)

    def _pid(self, replica: str) -> int:
        known = self._state().replicas.get(replica)
        return known.engine.pid if known is not None and known.engine is not None else 0
