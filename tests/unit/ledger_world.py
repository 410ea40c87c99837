"""A small world of gateways that share one account, with faults, for the laws of limits.

Gateways die, are suspended for longer than their lease, and see wrong times; reports are lost,
arrive late, or lose their acknowledgements. All of it follows from one seed.
"""

import random
from dataclasses import dataclass, field

from nebula.actors.gateway.allowance import Allowance, Reservation, settle
from nebula.events import ledger
from nebula.events.ledger import Account, Meter

STEP = 0.25
START = 1_790_000_010.0

LIMITS: dict[str, int] = {
    Meter.REQUESTS: 20,
    Meter.TOKENS: 2000,
    Meter.DAY: 9000,
    Meter.IN_FLIGHT: 4,
}


@dataclass
class Running:
    """A request that was admitted: in which windows, what it reserved, and when it ends."""

    tokens: int
    windows: dict[str, int]
    reservation: Reservation
    ends: float


@dataclass
class Written:
    """A report on its way to the store."""

    account: Account
    after: int
    arrives: float
    sender: "Actor"
    acknowledged: bool


@dataclass
class Actor:
    """One gateway."""

    name: str
    allowance: Allowance
    ahead: float = 0.0
    dead: bool = False
    until: float = 0.0
    running: list[Running] = field(default_factory=list)
    waiting: int | None = None
    waits: float = 0.0
    waits_for: Written | None = None
    gives_up: float = 0.0


def needs(tokens: int) -> dict[str, int]:
    """Return what a request needs, by meter."""
    return {Meter.REQUESTS: 1, Meter.TOKENS: tokens, Meter.DAY: tokens, Meter.IN_FLIGHT: 1}


class World:
    """Three gateways, and the store of their account."""

    def __init__(
        self, seed: int, *, faults: bool = True, pauses: bool = True, loss: float = 0.1
    ) -> None:
        """`loss`: the part of reports that is lost, and the part that arrives late."""
        self.chance = random.Random(seed)
        self.busy = True
        self.loss = loss
        self.now = 0.0
        self.faults = faults
        self.pauses = pauses
        self.seq = 0
        self.account = ledger.EMPTY
        self.before: tuple[Account, int] | None = None
        self.sent: list[Written] = []
        self.gateways = [self._gateway(number) for number in range(3)]
        self.names = 3
        self.used: dict[tuple[str, int], int] = {}
        self.beyond: dict[tuple[str, int], int] = {}
        self.admitted = 0

    def _gateway(self, number: int) -> Actor:
        return Actor(f"g{number}", Allowance(f"g{number}", LIMITS))

    def wall(self, gateway: Actor) -> float:
        return START + self.now + gateway.ahead

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check()

    def step(self) -> None:
        """Let a moment pass."""
        self.now += STEP
        self._arrive()
        for gateway in self.gateways:
            if not gateway.dead and self.now >= gateway.until:
                self._act(gateway)
        if self.faults:
            self._go_wrong()

    def _arrive(self) -> None:
        for written in [each for each in self.sent if each.arrives <= self.now]:
            self.sent.remove(written)
            if written.after == self.seq:
                self.before = (self.account, self.seq)
                self.seq, self.account = self.seq + 1, written.account
            elif not written.acknowledged:
                continue
            if written.acknowledged and written.sender.waits_for is written:
                written.sender.waits_for = None

    def _act(self, gateway: Actor) -> None:
        chance = self.chance
        for request in [each for each in gateway.running if each.ends <= self.now]:
            gateway.running.remove(request)
            self._end(gateway, request)
        if gateway.waits_for is not None and self.now >= gateway.gives_up:
            gateway.waits_for = None
        if gateway.waiting is None and self.busy and chance.random() < 0.5:
            for _ in range(chance.choice((1, 1, 2, 3))):
                if gateway.waiting is None:
                    gateway.waiting = chance.randrange(1, 300)
                    gateway.waits = self.now + 2
                    self._try(gateway, first=True)
        elif gateway.waiting is not None:
            self._try(gateway)
        allowance = gateway.allowance
        looks = gateway.waiting is not None or not self.busy or chance.random() < 0.5
        if looks and gateway.waits_for is None and (allowance.due(self.now) or allowance.short):
            self._report(gateway)

    def _try(self, gateway: Actor, *, first: bool = False) -> None:
        tokens, allowance = gateway.waiting, gateway.allowance
        assert tokens is not None
        wall = self.wall(gateway)
        headroom = allowance.headroom
        if first and headroom.take(tokens, self.now, wall):
            gateway.waiting = None
            self._admit(gateway, tokens, [(headroom, tokens)])
            return
        lacking = allowance.lacks(tokens, self.now, wall)
        if first and lacking:
            for meter, amount in needs(tokens).items():
                allowance.purses[meter].wanted += amount
            return
        over = bool(lacking) and self.now >= gateway.waits
        if lacking and not over:
            return
        if not first:
            for meter, amount in needs(tokens).items():
                allowance.purses[meter].wanted -= amount
        gateway.waiting = None
        if over:
            return
        self._admit(gateway, tokens, [allowance.take(tokens, self.now, wall)])

    def _admit(self, gateway: Actor, tokens: int, reservation: Reservation) -> None:
        windows = {meter: purse.window for meter, purse in gateway.allowance._purses.items()}
        ends = self.now + self.chance.choice((0.0, 0.5, 3.0, 20.0))
        gateway.running.append(Running(tokens, windows, reservation, ends))
        self.admitted += 1
        for meter, amount in needs(tokens).items():
            self._count(meter, windows[meter], amount)

    def _end(self, gateway: Actor, request: Running) -> None:
        most = request.tokens
        beyond = self.chance.randrange(50) if self.chance.random() < 0.1 else 0
        tokens = most + beyond if beyond else self.chance.randrange(most + 1)
        used: dict[str, int] = {
            Meter.REQUESTS: 1,
            Meter.TOKENS: tokens,
            Meter.DAY: tokens,
            Meter.IN_FLIGHT: 0,
        }
        if beyond:
            for meter in (Meter.TOKENS, Meter.DAY):
                now = gateway.allowance.purses[meter].window
                key = (meter, request.windows[meter])
                self.beyond[key] = self.beyond.get(key, 0) + beyond
                if now != request.windows[meter]:
                    self.beyond[meter, now] = self.beyond.get((meter, now), 0) + beyond
        for name, actual in used.items():
            self._count(name, request.windows[name], actual - needs(most)[name])
        settle(request.reservation, tokens)

    def _count(self, meter: str, window: int, amount: int) -> None:
        self.used[meter, window] = self.used.get((meter, window), 0) + amount

    def _report(self, gateway: Actor) -> None:
        chance, allowance = self.chance, gateway.allowance
        if self.faults and chance.random() < self.loss:
            return  # the account can't be read
        if self.faults and chance.random() < 0.05 and self.before is not None:
            allowance.read(*self.before, self.now)  # a copy that is behind
        else:
            allowance.read(self.account, self.seq, self.now)
        account = allowance.report(self.account, self.now, self.wall(gateway))
        fate = chance.random() if self.faults else 1.0
        loss = self.loss
        if fate < loss:
            return
        late = chance.choice((0.5, 5.0, 12.0)) if fate < 2 * loss else 0.0
        told = not 2 * loss <= fate < 3 * loss
        written = Written(account, allowance.seq, self.now + late, gateway, told)
        self.sent.append(written)
        if late or not written.acknowledged:
            gateway.waits_for, gateway.gives_up = written, self.now + 1.0
        if not late:
            self._arrive()
            if written.acknowledged:
                allowance.read(self.account, self.seq, self.now)

    def _go_wrong(self) -> None:
        chance = self.chance
        if self.pauses and chance.random() < 0.01:
            chance.choice(self.gateways).until = self.now + chance.choice((3.0, 8.0, 30.0))
        if chance.random() < 0.003:
            at = chance.randrange(len(self.gateways))
            self.gateways[at].dead = True
            self.gateways[at] = self._gateway(self.names)
            self.names += 1
        if chance.random() < 0.01:
            chance.choice(self.gateways).ahead = chance.choice((-30.0, 0.0, 0.0, 70.0))

    def calm(self) -> None:
        """End all faults, and let all requests end."""
        self.faults = self.busy = False
        for gateway in self.gateways:
            gateway.ahead = gateway.until = 0.0
        for _ in range(int(45 / STEP)):
            self.step()

    def check(self) -> None:
        """Raise AssertionError if a limit is exceeded by more than requests used beyond."""
        for (meter, begun), used in self.used.items():
            if meter in ledger.AT_A_TIME:
                continue
            most = LIMITS[meter] + self.beyond.get((meter, begun), 0)
            assert used <= most, (meter, begun, used, most, self.now)
        if not self.pauses:
            running = sum(len(gateway.running) for gateway in self.gateways)
            assert running <= LIMITS[Meter.IN_FLIGHT], (running, self.now)
