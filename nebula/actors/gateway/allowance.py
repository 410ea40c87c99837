"""What one gateway may use of a subject's limits without asking, and what it reports of it. Pure.

`nebula.events.ledger` has the theory. An allowance has a *purse* for each meter of its subject:
what the gateway holds, what its running requests have reserved, and what it has spent and not
reported yet. A request reserves the most that it can use, and is settled with what it used.

`now` is the gateway's monotonic clock, `wall` the NATS server's, both in seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Protocol, TypeAlias

from msgspec import Struct

from nebula.actors.gateway.headroom import Headroom
from nebula.actors.gateway.purse import Purse
from nebula.events import ledger
from nebula.events.ledger import EXPIRES, HOLDS, Account, Report

REPORTS = 2.0
"""Seconds between two reports of what is in use."""

_NEVER = -1e9


class Settler(Protocol):
    """What a request has reserved something of."""

    def settle(self, tokens: int, used: int | None) -> None:
        """Settle a request that reserved so many tokens with those it used; None: not begun."""


Reservation: TypeAlias = list[tuple[Settler, int]]
"""What one request has reserved: of what, and how many tokens."""


class Claim:
    """What one request has reserved of each purse, where that is the whole of a limit."""

    def __init__(self, purses: Iterable[Purse], tokens: int, change: Callable[[], object]) -> None:
        """`change`: called before purses change."""
        self._change = change
        self._each = [(purse, purse.amount(tokens), purse.epoch) for purse in purses]
        for purse, amount, _ in self._each:
            purse.reserved += amount
            purse.taken += amount

    def settle(self, _: int, used: int | None) -> None:
        """As `Settler.settle`."""
        self._change()
        for purse, amount, epoch in self._each:
            purse.settle(amount, epoch, used)


class _Pending(Struct, frozen=True):
    """A report that may count: it was to replace the account at `seq`, and was sent at `sent`.

    `demand`: by meter what was taken and what was expected when it was made.
    """

    report: Report
    seq: int
    sent: float
    demand: Mapping[str, tuple[int, int]]


class Allowance:
    """A gateway's part of one subject's limits.

    A request reserves the whole of a limit at most. `holder`: the gateway, by a name for this run.
    `until`: when its lease ends. `asked`: another gateway needs more than there is. `leaving`: the
    gateway ends. `seq`: of the account that was read last. `headroom`: what most requests take
    from.
    """

    def __init__(
        self, holder: str, limits: Mapping[str, int], numbers: Iterator[int] | None = None
    ) -> None:
        """`numbers`: of its reports; the holder uses none twice, so others see that it reports."""
        self.holder = holder
        self._purses: dict[str, Purse] = {}
        self.headroom = Headroom((), self._close)
        self.until = _NEVER
        self.asked = self.leaving = False
        self._numbers = count(1) if numbers is None else numbers
        self._last = 0
        self._sent_at = _NEVER
        self.seq = 0
        self._pending: list[_Pending] = []
        self._seen: dict[str, tuple[int, float]] = {}
        self._holding: tuple[str, ...] = ()
        self.limit(limits)

    @property
    def purses(self) -> Mapping[str, Purse]:
        """The purses by meter, up to date. They may be changed: the next request looks at them."""
        self._close()
        return self._purses

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set the limits of the subject. Where one is lowered, nothing is used before a report."""
        self._close()
        for meter in self._purses.keys() - limits.keys():
            del self._purses[meter]
        for meter, limit in limits.items():
            purse = self._purses.get(meter)
            if purse is None:
                self._purses[meter] = Purse(meter, limit)
            else:
                if limit < purse.limit:
                    self.until = _NEVER
                purse.limit = limit
        self.headroom = Headroom(self._purses.values(), self._close)

    def _close(self) -> None:
        self.headroom.close()

    # Requests

    def opened(self) -> Headroom:
        """Return the headroom, of the purses as they are now."""
        if self.headroom.closed:
            if self.headroom.stale:
                self.headroom = Headroom(self._purses.values(), self._close)
            self.headroom.open(self.until)
        return self.headroom

    def lacks(self, tokens: int, now: float, wall: float) -> list[Purse]:
        """Return the purses that can't give what a request needs of them now."""
        held = now < self.until
        lacking = []
        for purse in self.purses.values():
            if wall >= purse.end:
                purse.turn(wall)
            amount = purse.amount(tokens)
            if amount and (not held or purse.free < amount):
                lacking.append(purse)
        return lacking

    def take(self, tokens: int, now: float, wall: float) -> tuple[Settler, int]:
        """Reserve what a request needs, which `lacks` has found to be there."""
        headroom = self.opened()
        if headroom.take(tokens, now, wall):
            return headroom, tokens
        return Claim(self.purses.values(), tokens, self._close), tokens

    def want(self, tokens: int) -> list[tuple[Purse, int]]:
        """Note that a request waits for what it needs; return it, for `unwant`."""
        wanted = [(purse, purse.amount(tokens)) for purse in self.purses.values()]
        for purse, amount in wanted:
            purse.wanted += amount
        return wanted

    # Reports

    @property
    def in_use(self) -> bool:
        """Whether there is something to report, now or later."""
        return bool(self._pending) or any(
            purse.held or purse.spent or purse.wanted for purse in self.purses.values()
        )

    @property
    def short(self) -> bool:
        """Whether a request waits for more than there is."""
        return any(purse.wanted > purse.free for purse in self.purses.values())

    def due(self, now: float) -> bool:
        """Return whether it is time for a report, also where only silent leases are to expire."""
        if self.in_use and (self.asked or now >= self._sent_at + REPORTS):
            return True
        return any(now >= self._seen[name][1] + EXPIRES for name in self._holding)

    def read(self, account: Account, seq: int, now: float) -> None:
        """Take in the account as it was found at `seq`, and what has become of reports.

        A report whose acknowledgement is lost may still come to count, until the account has been
        replaced.
        """
        if seq < self.seq:
            return
        self.seq = seq
        lease = account.leases.get(self.holder)
        number = lease.report if lease is not None else 0
        counted = [each for each in self._pending if each.report.number == number]
        if counted:
            self._counts(counted[0], account)
        elif number != self._last:
            self._lost()
        self._resolve(seq)
        self._look(account, now)

    def report(self, account: Account, now: float, wall: float) -> Account:
        """Return the account that is to replace what was `read`."""
        account = self._expire(account, now)
        lent = self.asked or self.leaving or self.others_lack(account)
        part = min(1.0, (now - self._sent_at) / REPORTS)
        entries, demand = {}, {}
        for meter, purse in self.purses.items():
            purse.turn(wall)
            demand[meter] = purse.taken, purse.expected(part)
            entries[meter] = purse.entry(purse.expected(part), lent=lent)
        report = Report(next(self._numbers), self._last, entries)
        self._pending.append(_Pending(report, self.seq, now, demand))
        return ledger.settled(account, self.holder, report)

    def _counts(self, pending: "_Pending", account: Account) -> None:
        report, sent = pending.report, pending.sent
        self._pending.clear()
        lease = account.leases[self.holder]
        self._last = report.number
        self._sent_at = sent
        self.until = sent + HOLDS
        self.asked = False
        for meter, purse in self.purses.items():
            if (entry := report.entries.get(meter)) is not None:
                if entry.limit > purse.limit:  # it was lowered meanwhile
                    self.until = _NEVER
                purse.granted(entry, account.tallies[meter], lease.held.get(meter, 0))
                purse.counted(*pending.demand[meter])

    def _resolve(self, seq: int) -> None:
        """Forget the reports that can't count any more, and what they would have given back."""
        self._pending = [each for each in self._pending if each.seq == seq]
        if not self._pending:
            for purse in self.purses.values():
                purse.returned = 0

    def _lost(self) -> None:
        self._last = 0
        self.until = _NEVER
        for purse in self.purses.values():
            purse.lost()

    def _look(self, account: Account, now: float) -> None:
        """Note how long the leases of others have been as they are, and what is left."""
        self._seen = {
            name: self._seen[name]
            if name in self._seen and self._seen[name][0] == lease.report
            else (lease.report, now)
            for name, lease in account.leases.items()
            if name != self.holder
        }
        self._holding = tuple(name for name in self._seen if account.leases[name].held)
        others = [lease for name, lease in account.leases.items() if name != self.holder]
        for meter, purse in self.purses.items():
            purse.tally = account.tallies.get(meter, purse.tally)
            held = sum(lease.held.get(meter, 0) for lease in others)
            purse.others = held
            purse.others_idle = held - sum(lease.busy.get(meter, 0) for lease in others)

    def _expire(self, account: Account, now: float) -> Account:
        for name, (_, since) in self._seen.items():
            if now >= since + EXPIRES:
                account = ledger.expired(account, name)
        return account

    def others_lack(self, account: Account) -> bool:
        """Return whether another gateway needs more than there is of what this one holds."""
        return any(
            meter in lease.lacks
            for name, lease in account.leases.items()
            if name != self.holder
            for meter in self._purses
        )


def unwant(wanted: list[tuple[Purse, int]]) -> None:
    """Note that a request does not wait any more."""
    for purse, amount in wanted:
        purse.wanted -= amount


def settle(reservation: Reservation, used: int | None) -> None:
    """Settle what a request has reserved with the tokens it used; None: it was not begun.

    Nothing is settled a second time.
    """
    for settler, tokens in reservation:
        settler.settle(tokens, used)
    reservation.clear()
