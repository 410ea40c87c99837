"""The shared accounts of what keys, tenants and models use of their limits. Pure.

Theory of operation
===================

Each *subject* that has limits, a key, a tenant or a model, has one account, which all gateways read
and replace by compare-and-set. For each *meter*, one limit of the subject, it says how much of it
is spent in the present window, and how much each gateway holds: its *lease*, out of which it takes
requests on without asking anybody. What is spent and what is held are never more than the limit
together, so that the gateways can't spend more than the limit, whatever becomes of them.

A gateway *reports* from time to time: what it has spent since its last report, what it keeps of its
lease, and what it needs beside. `settled` makes the next account of that.

A lease whose holder is silent is *expired* by another gateway. All of it counts as spent then,
since the holder may have spent it: a gateway that dies costs its subjects what it held, for the
rest of the window, and never lets anybody spend twice. Of meters without a window, such as requests
in flight, it becomes free.

No clocks are compared. A holder spends its lease for `HOLDS` seconds from before it sent its last
report; another gateway expires it once it has seen the same report for `EXPIRES` seconds, which it
read after it was sent. Windows are those of one clock, the NATS server's, and never go back.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

HOLDS = 6.0
"""Seconds for which a gateway spends a lease after it began to send its last report."""

EXPIRES = 10.0
"""Seconds after which a lease is expired whose holder has not reported."""


class Meter(StrEnum):
    """What is limited: the names of the fields of a subject's limits."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    DAY = "tokens_per_day"
    MONTH = "tokens_per_month"
    IN_FLIGHT = "in_flight"

    __hash__ = str.__hash__  # an Enum's own is a function in Python


OF_TOKENS = frozenset({Meter.TOKENS, Meter.DAY, Meter.MONTH})
"""Meters that count tokens."""

BUDGETS = frozenset({Meter.DAY, Meter.MONTH})
"""Meters of which more comes much later only."""

AT_A_TIME = frozenset({Meter.IN_FLIGHT})
"""Meters without a window: what they count ends."""


def window(meter: str, now: float) -> tuple[int, int]:
    """Return when the window begins and ends that a time is in, in seconds since 1970, UTC."""
    if meter in AT_A_TIME:
        return 0, 2**62
    if meter == Meter.MONTH:
        moment = datetime.fromtimestamp(now, UTC)
        first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        after = (first + timedelta(days=32)).replace(day=1)
        return int(first.timestamp()), int(after.timestamp())
    length = 86_400 if meter == Meter.DAY else 60
    begin = int(now) // length * length
    return begin, begin + length


class Tally(Struct, frozen=True, array_like=True):
    """What is spent of one meter in the window that began at `window`."""

    window: int = 0
    spent: int = 0


class Lease(Struct, frozen=True, array_like=True):
    """What one gateway holds by meter, in the windows of the tallies.

    `report`: the number of its last report. `busy`: how much of it its requests have reserved or
    wait for. `lacks`: what it needed beside and did not get.
    """

    report: int
    held: dict[str, int] = {}
    busy: dict[str, int] = {}
    lacks: dict[str, int] = {}


class Account(Struct, frozen=True):
    """The account of one subject."""

    tallies: dict[str, Tally] = {}
    leases: dict[str, Lease] = {}


class Entry(Struct, frozen=True):
    """What a gateway reports of one meter.

    `limit`: as it knows it. `window`: the present one, and that of what it reports. `spent`: since
    its last report. `kept`: of its lease, with what requests have or wait for (`busy`). `needs`:
    what it wants more. `spare`: what it would take beside.
    """

    limit: int
    window: int
    spent: int = 0
    kept: int = 0
    busy: int = 0
    needs: int = 0
    spare: int = 0


class Report(Struct, frozen=True):
    """A gateway's report: `after` is the number of its last one, 0 if it has no lease."""

    number: int
    after: int
    entries: dict[str, Entry]


EMPTY = Account()


def settled(account: Account, holder: str, report: Report) -> Account:
    """Return the account after a gateway's report.

    A lease that it does not know of is expired. Its own lease stays although it holds nothing, so
    that the gateway can tell whether a report counts whose acknowledgement is lost.
    """
    known = account.leases.get(holder)
    mine = known if known is not None and known.report == report.after else None
    if mine is None:
        account = expired(account, holder)
    tallies = dict(account.tallies)
    leases = dict(account.leases)
    leases.pop(holder, None)
    held: dict[str, int] = {}
    busy: dict[str, int] = {}
    lacks: dict[str, int] = {}
    for meter, entry in report.entries.items():
        tally = tallies.get(meter, Tally(entry.window))
        if entry.window > tally.window:
            tally = Tally(entry.window)
            leases = {name: _without(lease, meter) for name, lease in leases.items()}
        lasting = meter in AT_A_TIME
        same = entry.window == tally.window
        kept = entry.kept if lasting or (same and mine is not None) else 0
        spent = tally.spent + (entry.spent if same and not lasting else 0)
        others = sum(lease.held.get(meter, 0) for lease in leases.values())
        room = max(0, entry.limit - spent - others - kept)
        given = min(room, entry.needs)
        if given == entry.needs:
            given += min(entry.spare, (room - given) // 2)
        tallies[meter] = Tally(tally.window, spent)
        if kept + given:
            held[meter] = kept + given
        if entry.busy + given:
            busy[meter] = entry.busy + min(given, entry.needs)
        if given < entry.needs:
            lacks[meter] = entry.needs - given
    leases[holder] = Lease(report.number, held, busy, lacks)
    return Account(tallies, leases)


def expired(account: Account, holder: str) -> Account:
    """Return the account after a silent gateway's lease has ended: what it held is spent."""
    leases = dict(account.leases)
    lease = leases.pop(holder, None)
    if lease is None:
        return account
    tallies = dict(account.tallies)
    for meter, held in lease.held.items():
        tally = tallies.get(meter)
        if tally is not None and meter not in AT_A_TIME:
            tallies[meter] = Tally(tally.window, tally.spent + held)
    return Account(tallies, leases)


def used(account: Account, now: float, silent: float) -> dict[str, int]:
    """Return what is used by meter: spent in the present window or reserved, or at a time.

    `silent`: seconds since the account was replaced; after `EXPIRES` no lease in it holds.
    """
    if silent >= EXPIRES:
        for holder in account.leases:
            account = expired(account, holder)
    found = {}
    for meter, tally in account.tallies.items():
        present = tally.window >= window(meter, now)[0]
        busy = sum(lease.busy.get(meter, 0) for lease in account.leases.values())
        found[meter] = tally.spent + busy if present else 0
    return found


def _without(lease: Lease, meter: str) -> Lease:
    """Return a lease without a meter, whose window is over."""
    if meter not in lease.held and meter not in lease.lacks:
        return lease
    parts = (
        {name: value for name, value in part.items() if name != meter}
        for part in (lease.held, lease.busy, lease.lacks)
    )
    held, busy, lacks = parts
    return replace(lease, held=held, busy=busy, lacks=lacks)
