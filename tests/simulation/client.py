"""Clients: each asks once, and reads what it gets, until the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from msgspec import Struct, field
from msgspec.structs import replace

from nebula.actors.gateway.not_served import NotServed
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.events.vocabulary import EngineFailed
from tests.simulation import answers
from tests.simulation.clock import Clock
from tests.simulation.gateway import Gateway
from tests.simulation.invariants import BLAMED, ENDED, WHOLE
from tests.simulation.journal import Broken

TIMEOUT = 60.0
"""Seconds after which some clients want no answer any more."""

LEAVES = 0.05
"""How many of the clients that may leave do so in the middle of it."""


class Asked(Struct):
    """One request: what became of it is `outcome`, and until then empty.

    `seq`: of the last event in the log when it was asked.
    """

    id: str
    model: str
    at: float
    slack: bool = False
    gateway: Gateway | None = None
    seq: int = 0
    outcome: str = ""
    pieces: list[Piece] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        """Read a piece. Raise Broken."""
        if self.outcome and self.outcome != "left":
            raise Broken(ENDED, f"{self.id} gets more after its end, {self.outcome}: {piece}")
        if self.outcome:
            return
        self.pieces.append(piece)
        try:
            read = answers.text(self.pieces)
        except (KeyError, IndexError, ValueError) as error:
            raise Broken(WHOLE, f"{self.id} has read what makes no sense: {error!r}") from error
        if not piece.failure and not answers.TEXT.startswith(read):
            raise Broken(WHOLE, f"{self.id} has read {read!r}")
        if piece.end:
            self._ended(piece, read)

    def _ended(self, piece: Piece, read: str) -> None:
        if piece.failure == Failure.REFUSED:
            self.outcome = f"refused: {piece.body.decode()}"
        elif piece.failure:
            if piece.failure not in set(Failure):
                raise Broken(ENDED, f"{self.id} ends with {piece.failure!r}")
            if piece.failure == Failure.FATAL:
                self._blamed(int(piece.body))
            self.outcome = f"{piece.failure}: {piece.body.decode()}"
        elif read != answers.TEXT:
            raise Broken(WHOLE, f"{self.id} ends well with {read!r}")
        else:
            self.outcome = "answered"

    def _blamed(self, number: int) -> None:
        """As many engines of its model have failed meanwhile. Raise Broken."""
        assert self.gateway is not None
        since = [each for each in self.gateway.journal.records if each.seq > self.seq]
        failed = [
            each.seq
            for each in since
            if isinstance(each.content, EngineFailed) and each.id.startswith(f"{self.model}-")
        ]
        if number > len(failed):
            raise Broken(BLAMED, f"{self.id} is blamed for {number}, and these failed: {failed}")


class Clients:
    """All clients, each of which is served by one of the gateways."""

    def __init__(self, clock: Clock, gateways: Mapping[str, Gateway], seed: int) -> None:
        self.asked: list[Asked] = []
        self._clock = clock
        self._gateways = gateways
        self._seed = seed

    @property
    def now(self) -> float:
        """The present time, in seconds."""
        return self._clock.now

    def ask(self, model: str, *, may_leave: bool = False, slack: bool = False) -> Asked:
        """Have a client ask for an answer, streamed or not, resumable or not.

        `slack`: it is to take spare capacity only.
        """
        now = self._clock.now
        at_once = sum(each.at == now and each.model == model for each in self.asked)
        # An id, and what is drawn, do not depend on other requests: those may be left out.
        asked = Asked(f"{model}-{now * 1000:.0f}-{at_once}", model, now, slack)
        rng = Random(f"{self._seed} {asked.id}")
        self.asked.append(asked)
        serving = [each for each in self._gateways.values() if each.serves]
        if not serving:
            asked.outcome = "not served: there is no gateway"
            return asked
        gateway = asked.gateway = rng.choice(serving)
        asked.seq = gateway.journal.seq
        request = answers.request(asked.id, gateway.id, model, "", stream=rng.random() < 0.8)
        timeout = TIMEOUT if rng.random() < 0.5 else None
        request = replace(request, timeout=timeout, keep=rng.random() < 0.2, slack=asked.slack)
        try:
            gateway.ask(request, asked)
        except NotServed as error:
            asked.outcome = f"not served: {error}"
        if may_leave and rng.random() < LEAVES:
            self._clock.after(rng.random() * 4, self._leave, asked)
        return asked

    def _leave(self, asked: Asked) -> None:
        if not asked.outcome and asked.gateway is not None:
            asked.outcome = "left"
            asked.gateway.leave(asked.id)

    def lose(self, gateway: Gateway) -> None:
        """A gateway has crashed: its clients see their connections break."""
        for asked in self.asked:
            if asked.gateway is gateway and not asked.outcome:
                asked.outcome = "its gateway crashed"
