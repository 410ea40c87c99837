"""What one gateway holds, has reserved and has spent of one meter of a subject's limits. Pure."""

from nebula.events.ledger import AT_A_TIME, OF_TOKENS, Entry, Tally, window


class Purse:
    """One meter of a subject, as far as this gateway has to do with it.

    `held`: of its lease, with what it has `spent` and not reported yet, what is `reserved`, and
    what is `returned` by the report under way. `taken`: since the last report that counts. `pace`:
    what was taken in the time between two ordinary reports before that one. `wanted`: by requests
    that wait for it. `epoch` changes when nothing is owed to earlier reservations any more.
    `lasting`: the meter has no window. `of_tokens`: it counts tokens. As last read: the `tally`,
    what `others` hold, and how much of that was idle.
    """

    __slots__ = (
        "end",
        "epoch",
        "held",
        "lasting",
        "limit",
        "meter",
        "of_tokens",
        "others",
        "others_idle",
        "pace",
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
        self.of_tokens = meter in OF_TOKENS
        self.window = self.end = 0
        self.held = self.spent = self.reserved = self.returned = 0
        self.taken = self.pace = self.wanted = self.epoch = 0
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
    def left(self) -> int:
        """What no request has used or reserved; below 0 if more is used than the limit allows."""
        taken = self.spent_in_all + self.reserved
        return self.limit - taken - self.others + self.others_idle

    @property
    def remaining(self) -> int:
        """What no request has used or reserved, as far as this gateway knows."""
        return max(0, self.left)

    def amount(self, tokens: int) -> int:
        """Return what a request with so many tokens needs: the whole limit at most."""
        return min(tokens if self.of_tokens else 1, self.limit)

    def settle(self, amount: int, epoch: int, tokens: int | None) -> None:
        """Settle what a request reserved in an epoch with the tokens it used; None: not begun."""
        actual = 0 if tokens is None or self.lasting else tokens if self.of_tokens else 1
        if self.epoch == epoch:
            self.reserved -= amount
            self.spent += actual
        elif actual > amount:
            self.spent += actual - amount

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
            self.held = self.spent = self.reserved = self.returned = 0
            self.others = self.others_idle = 0
            self.epoch += 1

    def expected(self, part: float) -> int:
        """Return what will be taken until the next ordinary report, if all goes on as before.

        `part`: of the time between two such reports, what has passed since the last that counts.
        """
        return self.taken + int(self.pace * (1 - part))

    def entry(self, expected: int, *, lent: bool) -> Entry:
        """Return what is reported, and set aside what the report gives back.

        `lent`: give back all that no request waits for.
        """
        within = self.limit - self.spent_in_all - self.others - self.reserved
        # After a limit was lowered there is less than it holds.
        free = max(min(self.free, within), 0)
        kept = min(free, self.wanted if lent else max(2 * expected, self.wanted))
        self.returned += max(self.free - kept, 0)
        return Entry(
            self.limit,
            self.window,
            spent=self.spent,
            kept=self.reserved + kept,
            busy=self.reserved + min(kept, self.wanted),
            needs=max(0, self.wanted - kept),
            spare=0 if lent else max(0, 2 * (expected + self.wanted) - kept),
        )

    def counted(self, taken: int, expected: int) -> None:
        """Note that a report counts: what was taken and expected when it was made."""
        self.taken = max(0, self.taken - taken)
        self.pace = expected

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
