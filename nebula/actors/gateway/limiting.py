"""Keeps requests within the limits of their key, tenant and model: the shell around allowances.

Nothing is asked for a request that fits into what this gateway holds. Only where that does not
suffice the account is replaced first. `nebula.events.ledger` has the theory.
"""

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import TypeAlias

from msgspec import Struct
from nats.errors import MaxPayloadError

from nebula.actors.gateway.allowance import Allowance, Reservation, settle, unwant
from nebula.actors.gateway.purse import Purse
from nebula.events import subjects
from nebula.events.ledger import AT_A_TIME, Account
from nebula.events.reading import decoded
from nebula.store.connection import Connection, Unavailable
from nebula.store.ledger import LedgerStore

log = logging.getLogger(__name__)

Subject: TypeAlias = tuple[str, str]
"""A kind, `key`, `tenant` or `model`, and an id."""

TICK = 0.25
"""Seconds between two looks at what is to be reported."""

PATIENCE = 3.0
"""Seconds that a request waits for what other gateways hold and do not use."""

FRESH = 0.25
"""Seconds for which an account that was read tells that a limit is reached."""

CLOCK = 60.0
"""Seconds after which the server's time is asked again."""

SOON = 5.0
"""Seconds after which to try again where running requests may use less than they reserved."""

TRIES = 10
"""How often in a row an account is replaced that other gateways replace too."""

LEAVING = 1.0
"""Seconds for which the end of a gateway waits for its reports, twice at most."""

MOST = 4096
"""Lists of limits whose accounts are remembered."""

IDLE = 600.0
"""Seconds after which the allowance of a subject without requests is forgotten."""


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class Limited(Struct, frozen=True):
    """A subject and its limits, by meter."""

    subject: Subject
    limits: Mapping[str, int]


class Exceeded(Exception):
    """A limit is reached: which subject's and meter's, and when trying again may help (s)."""

    def __init__(self, subject: Subject, purse: Purse, amount: int, retry_after: float) -> None:
        super().__init__(f"{subject[0]} {subject[1]}: {purse.meter}")
        self.subject = subject
        self.purse = purse
        self.amount = amount
        self.retry_after = retry_after


class _Known:
    """A subject that this gateway has requests of, and its account as it was last seen.

    `sought`: another gateway needs more than there is.
    """

    def __init__(self, each: Limited, allowance: Allowance, now: float) -> None:
        self.subject = each.subject
        self.limits = each.limits
        self.allowance = allowance
        self.account: Account | None = None
        self.fresh_at, self.used_at = -1e9, now
        self.reporting = self.sought = False
        self.waiters: set[asyncio.Future[None]] = set()


_Plan: TypeAlias = tuple[Sequence[Limited], Sequence[_Known], Sequence[Allowance]]
"""The limits of some requests, and what is known of each."""


class Limiting:
    """All subjects with limits that one gateway knows.

    `seen`: the NATS server's time when a request was last reserved for (s since 1970).
    """

    def __init__(self, connection: Connection, store: LedgerStore) -> None:
        self._connection = connection
        self._store = store
        self._holder = uuid.uuid4().hex[:16]
        self._numbers = count(1)
        self._known: dict[Subject, _Known] = {}
        self._plans: dict[int, _Plan] = {}
        self._ahead: float | None = None
        self.seen = 0.0
        self._now: Callable[[], float] = _loop_time
        self._clock_at = 0.0
        self._beginning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem = ""

    @property
    def wall(self) -> float:
        """The NATS server's time, in seconds since 1970."""
        return self._now() + (self._ahead or 0.0)

    def reserve(self, limited: Sequence[Limited], tokens: int) -> Reservation | None:
        """Reserve what a request needs of each subject; None if that has to be asked for.

        It needs one request, one in flight, and so many `tokens`.
        """
        if self._ahead is None:
            return None
        plan = self._plans.get(id(limited))
        if plan is None or plan[0] is not limited:
            plan = self._planned(limited)
        now = self._now()
        wall = self.seen = now + self._ahead
        reservation: Reservation = []
        for known in plan[1]:
            headroom = known.allowance.headroom
            if not headroom.take(tokens, now, wall):
                settle(reservation, None)
                return self._reserved(plan[1], tokens, now)
            reservation.append((headroom, tokens))
            known.used_at = now
        return reservation

    def allowances(self, limited: Sequence[Limited]) -> Sequence[Allowance]:
        """Return what this gateway may use of each subject's limits."""
        plan = self._plans.get(id(limited))
        return (self._planned(limited) if plan is None or plan[0] is not limited else plan)[2]

    async def obtain(self, limited: Sequence[Limited], tokens: int) -> Reservation:
        """Reserve what a request needs of each subject, as `reserve`. Raise Exceeded, Unavailable.

        What is held by other gateways is asked for.
        """
        loop = asyncio.get_running_loop()
        if self._ahead is None:
            await self._begin()
        deadline = loop.time() + PATIENCE
        all_known = self._planned(limited)[1]
        wanted = [each for known in all_known for each in known.allowance.want(tokens)]
        waiter: asyncio.Future[None] = loop.create_future()
        try:
            while (reservation := self._reserved(all_known, tokens, loop.time())) is None:
                over = loop.time() >= deadline
                for known in all_known:
                    self._refuse(known, tokens, over=over)
                if over:
                    raise Unavailable(self._problem or "the accounts of limits do not answer")
                waiter = loop.create_future()
                for known in all_known:
                    known.waiters.add(waiter)
                    if known.allowance.lacks(tokens, loop.time(), self.wall):
                        self._report(known)
                await asyncio.wait([waiter], timeout=TICK)
        finally:
            unwant(wanted)
            for known in all_known:
                known.waiters.discard(waiter)
        return reservation

    def in_use(self) -> Iterator[tuple[Subject, str, int]]:
        """Yield what is used of limits, by subject and meter, as far as this gateway knows."""
        for subject, known in self._known.items():
            for purse in known.allowance.purses.values():
                over = purse.end and purse.end <= self.wall
                yield subject, purse.meter, 0 if over else purse.limit - purse.remaining

    async def used(self, subject: Subject) -> dict[str, int]:
        """Return what all gateways have told of a subject's limits, by meter. Raise Unavailable."""
        return await self._store.used(*subject)

    async def run(self) -> None:
        """Report what is used, from time to time, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            for subject, known in tuple(self._known.items()):
                self._give(known)
                if known.allowance.due(now):
                    self._report(known)
                elif now - known.used_at > IDLE and not known.allowance.in_use:
                    del self._known[subject]
                    self._plans.clear()
            if self._ahead is not None and now - self._clock_at > CLOCK:
                self._clock_at = now
                with contextlib.suppress(Unavailable):
                    self._ahead = await self._store.clock()

    async def give_back(self) -> None:
        """Return to the accounts what no request has reserved: the gateway ends.

        A report that is under way may keep more, so that another one follows it.
        """
        for known in self._known.values():
            known.allowance.leaving = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVING)
        for known in self._known.values():
            if known.allowance.in_use:
                self._report(known)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVING)

    async def _begin(self) -> None:
        async with self._beginning:
            if self._ahead is None:
                ahead = await self._store.open()
                await self._connection.client.listen(subjects.LEDGER, self._on_account)
                # Python 3.11 makes a system call to find the running loop.
                self._now = asyncio.get_running_loop().time
                self._clock_at = self._now()
                self._ahead = ahead

    def _planned(self, limited: Sequence[Limited]) -> "_Plan":
        if len(self._plans) >= MOST:
            self._plans.clear()
        known = [self._get(each) for each in limited]
        plan = self._plans[id(limited)] = limited, known, [each.allowance for each in known]
        return plan

    def _get(self, each: Limited) -> _Known:
        known = self._known.get(each.subject)
        if known is None:
            allowance = Allowance(self._holder, each.limits, self._numbers)
            now = asyncio.get_running_loop().time()
            known = self._known[each.subject] = _Known(each, allowance, now)
        elif known.limits is not each.limits:
            self._plans.clear()
            known.limits = each.limits
            known.allowance.limit(each.limits)
        return known

    def _reserved(self, all_known: Sequence[_Known], tokens: int, now: float) -> Reservation | None:
        wall = now + (self._ahead or 0.0)
        if any(known.allowance.lacks(tokens, now, wall) for known in all_known):
            return None
        reservation: Reservation = []
        for known in all_known:
            known.used_at = now
            reservation.append(known.allowance.take(tokens, now, wall))
        return reservation

    def _refuse(self, known: _Known, tokens: int, *, over: bool) -> None:
        """Raise Exceeded for what a request can't have: no other gateway holds it unused."""
        now = asyncio.get_running_loop().time()
        if now - known.fresh_at > FRESH and not (over and known.fresh_at > now - PATIENCE):
            return
        for purse in known.allowance.lacks(tokens, now, self.wall):
            amount = purse.amount(tokens)
            if over or purse.remaining < amount:
                raise Exceeded(known.subject, purse, amount, self._retry_after(purse, amount))

    def _retry_after(self, purse: Purse, amount: int) -> float:
        left = purse.end - self.wall
        if purse.meter in AT_A_TIME:
            return 1.0
        if purse.limit - purse.spent_in_all >= amount:
            return min(left, SOON)  # what is reserved may turn out not to be used
        return left

    def _report(self, known: _Known) -> None:
        if known.reporting:
            return
        known.reporting = True
        task = asyncio.create_task(self._reports(known), name=f"account of {known.subject[1]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reports(self, known: _Known) -> None:
        try:
            await self._replace(known)
            self._problem = ""
        except (Unavailable, MaxPayloadError) as error:
            known.account = None
            if str(error) != self._problem:
                log.warning("the account of %s %s: %s", *known.subject, error)
            self._problem = str(error)
            await asyncio.sleep(TICK)  # a refusal may come at once, and again and again
        finally:
            known.reporting = False
            for waiter in known.waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _replace(self, known: _Known) -> None:
        """Report to the account of a subject. Raise Unavailable."""
        loop, allowance, (kind, identity) = (
            asyncio.get_running_loop(),
            known.allowance,
            known.subject,
        )
        for number in range(TRIES):
            if known.account is None:
                account, seq = await self._store.read(kind, identity)
                allowance.read(account, seq, loop.time())
                known.account = account
            account = allowance.report(known.account, loop.time(), self.wall)
            stored = await self._store.write(kind, identity, account, allowance.seq)
            if stored is not None:
                known.account, known.fresh_at = account, loop.time()
                allowance.read(account, stored, loop.time())
                return
            known.account = None
            await asyncio.sleep(random.uniform(0, 0.002 * 2**number))
        raise Unavailable("other gateways replace the account all the time")

    def _on_account(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Note that another gateway may lack what this one holds."""
        kind, identity = subject.decode().split(".")[2:]
        known = self._known.get((kind, identity))
        if known is None or not known.allowance.in_use:
            return
        account = decoded(body, Account)
        known.sought = account is not None and known.allowance.others_lack(account)
        self._give(known)

    def _give(self, known: _Known) -> None:
        if known.sought and any(purse.free > 0 for purse in known.allowance.purses.values()):
            known.sought, known.allowance.asked = False, True
            self._report(known)
