"""What one gateway may use of a subject's limits without asking, and what it reports of it. Pure.

`nebula.events.ledger` has the theory. An allowance has a *purse* for each meter of its subject:
what the gateway holds, what its running requests have reserved, and what it has spent and not
reported yet. A request reserves the most that it can use, and is settled with what it used.

`now` is the gateway's monotonic clock, `wall` the NATS server's, both in seconds.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TypeAlias

from msgspec import Struct

from nebula.actors.gateway.answer import Answer
from nebula.events import ledger
from nebula.events.ledger import (
    AT_A_TIME,
    EXPIRES,
    HOLDS,
    OF_TOKENS,
    Account,
    Entry,
    Meter,
    Report,
    Tally,
    amounts,
    window,
)

REPORTS = 2.0
"""Seconds between two reports of what is in use."""

_NEVER = -1e9


class Purse:
    """One meter of a subject, as far as this gateway has to do with it.

    `held`: of its lease, with what it has `spent` and not reported yet, what is `reserved`, and
    what is `returned` by the report under way. `taken`: since the last report. `wanted`: by
    requests that wait for it. `epoch` changes when nothing is owed to earlier reservations any
    more. `lasting`: the meter has no window. As last read: the `tally`, what `others` hold, and how
    much of that was idle.
    """

    __slots__ = (
        "end",
        "epoch",
        "held",
        "lasting",
        "limit",
        "meter",
        "others",
        "others_idle",
        "reserved",
        "returned",
        "spent",
        "taken",
        "tally",
        "wanted",
        "window",
    )

    def __init__(self, meter: str, limit: int) -> None:
        self.meter = meter
        self.limit = limit
        self.lasting = meter in AT_A_TIME
        self.window = self.end = 0
        self.held = self.spent = self.reserved = self.returned = 0
        self.taken = self.wanted = self.epoch = 0
        self.tally = Tally()
        self.others = self.others_idle = 0

    @property
    def free(self) -> int:
        """What a request may reserve now."""
        return self.held - self.spent - self.reserved - self.returned

    @property
    def spent_in_all(self) -> int:
        """What is spent in this window, as far as this gateway knows."""
        return self.spent + (self.tally.spent if self.tally.window == self.window else 0)

    @property
    def remaining(self) -> int:
        """What no request has used or reserved, as far as this gateway knows."""
        left = least((self,))
        return 0 if left is None else left[1]

    def turn(self, wall: float) -> None:
        """Begin the present window, unless that has begun."""
        begin, end = window(self.meter, wall)
        if begin > self.window:
            self._turn(begin, end)
        elif not self.end:
            self.end = end

    def _turn(self, begin: int, end: int) -> None:
        self.window, self.end = begin, end
        if not self.lasting:
            self.held = self.spent = self.reserved = self.returned = self.taken = 0
            self.others = self.others_idle = 0
            self.epoch += 1

    def entry(self, *, lent: bool) -> Entry:
        """Return what is reported, and set aside what the report gives back.

        `lent`: give back all that no request waits for.
        """
        taken, self.taken = self.taken, 0
        kept = min(max(self.free, 0), self.wanted if lent else max(2 * taken, self.wanted))
        self.returned += max(self.free - kept, 0)
        return Entry(
            self.limit,
            self.window,
            spent=self.spent,
            kept=self.reserved + kept,
            busy=self.reserved + min(kept, self.wanted),
            needs=max(0, self.wanted - kept),
            spare=0 if lent else max(0, 2 * (taken + self.wanted) - kept),
        )

    def granted(self, entry: Entry, tally: Tally, held: int) -> None:
        """Take in what a report led to."""
        self.returned = 0
        if tally.window > self.window:
            self._turn(tally.window, window(self.meter, tally.window)[1])
        if tally.window < self.window:
            self.held = 0
        else:
            self.held = held
            if entry.window == self.window:
                self.spent -= entry.spent

    def lost(self) -> None:
        """Note that the lease was expired: what it held counts as spent."""
        self.returned = 0
        if not self.lasting:
            self.spent = max(0, self.spent + self.reserved - self.held)
            self.reserved = 0
            self.epoch += 1
        self.held = 0


def least(purses: Iterable[Purse]) -> tuple[Purse, int] | None:
    """Return the purse of which the least remains, and how much; None of none."""
    found = None
    smallest = 0
    for purse in purses:
        left = purse.limit - purse.spent - purse.reserved - purse.others + purse.others_idle
        tally = purse.tally
        if tally.window == purse.window:
            left -= tally.spent
        if left < 0:
            left = 0
        if found is None or left < smallest:
            found, smallest = purse, left
    return None if found is None else (found, smallest)


Reservation: TypeAlias = list[tuple[Purse, int, int]]
"""What one request has reserved: how much of each purse, and in which epoch of it."""


class _Pending(Struct, frozen=True):
    """A report that may count: it was to replace the account at `seq`, and was sent at `sent`."""

    report: Report
    seq: int
    sent: float


class Allowance:
    """A gateway's part of one subject's limits.

    A request reserves the whole of a limit at most. `holder`: the gateway, by a name for this run.
    `until`: when its lease ends. `asked`: another gateway needs more than there is. `leaving`: the
    gateway ends. `seq`: of the account that was read last. `of_requests`, `of_tokens`: the purses
    that clients are told of.
    """

    def __init__(
        self, holder: str, limits: Mapping[str, int], numbers: Iterator[int] | None = None
    ) -> None:
        """`numbers`: of its reports; the holder uses none twice, so others see that it reports."""
        self.holder = holder
        self.purses: dict[str, Purse] = {}
        self.of_requests: tuple[Purse, ...] = ()
        self.of_tokens: tuple[Purse, ...] = ()
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

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set the limits of the subject."""
        for meter in self.purses.keys() - limits.keys():
            del self.purses[meter]
        for meter, limit in limits.items():
            purse = self.purses.get(meter)
            if purse is None:
                self.purses[meter] = Purse(meter, limit)
            else:
                purse.limit = limit
        each = tuple(self.purses.values())
        self.of_requests = tuple(purse for purse in each if purse.meter == Meter.REQUESTS)
        self.of_tokens = tuple(purse for purse in each if purse.meter in OF_TOKENS)

    # Requests

    def lacks(self, needs: Mapping[str, int], now: float, wall: float) -> list[Purse]:
        """Return the purses that can't give what a request needs of them now."""
        held = now < self.until
        lacking = []
        for meter, purse in self.purses.items():
            if wall >= purse.end:
                purse.turn(wall)
            amount = needs.get(meter, 0)
            if amount > purse.limit:
                amount = purse.limit
            free = purse.held - purse.spent - purse.reserved - purse.returned
            if amount and (not held or free < amount):
                lacking.append(purse)
        return lacking

    def take(self, needs: Mapping[str, int], into: Reservation) -> None:
        """Reserve what a request needs, which `lacks` has found to be there."""
        for meter, purse in self.purses.items():
            amount = needs.get(meter, 0)
            if amount > purse.limit:
                amount = purse.limit
            if amount:
                purse.reserved += amount
                purse.taken += amount
                into.append((purse, amount, purse.epoch))

    def want(self, needs: Mapping[str, int]) -> list[tuple[Purse, int]]:
        """Note that a request waits for what it needs; return it, for `unwant`."""
        wanted = [
            (purse, min(needs.get(meter, 0), purse.limit)) for meter, purse in self.purses.items()
        ]
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
        entries = {}
        for meter, purse in self.purses.items():
            purse.turn(wall)
            entries[meter] = purse.entry(lent=lent)
        report = Report(next(self._numbers), self._last, entries)
        self._pending.append(_Pending(report, self.seq, now))
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
                purse.granted(entry, account.tallies[meter], lease.held.get(meter, 0))

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
            for meter in self.purses
        )


def used_by(answer: Answer) -> dict[str, int]:
    """Return what a request used whose answer has ended, by meter."""
    tokens = answer.tokens
    count = 0 if tokens is None else tokens.prompt + tokens.completion
    return amounts(count)


def unwant(wanted: list[tuple[Purse, int]]) -> None:
    """Note that a request does not wait any more."""
    for purse, amount in wanted:
        purse.wanted -= amount


def settle(reservation: Reservation, used: Mapping[str, int]) -> None:
    """Settle what a request has reserved with what it used, by meter; absent is nothing.

    Nothing is settled a second time.
    """
    for purse, amount, epoch in reservation:
        actual = used.get(purse.meter, 0)
        if purse.epoch == epoch:
            purse.reserved -= amount
            if not purse.lasting:
                purse.spent += actual
        elif actual > amount:
            purse.spent += actual - amount
    reservation.clear()
