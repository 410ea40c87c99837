"""Sums usage records, in any order, and compares an event with what its records say. Pure."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec.structs import astuple, replace

from nebula.events.usage import UsageRecord, UsageRolledUp, UsageSum

HOUR = 3600

ROWS = 1000
"""Sums of one event at most, beside those of its last message."""

USERS = 64
"""Users of one key and hour of which an event tells apart what they used."""

OTHERS = "*"
"""Stands for the users beyond."""

_Row: TypeAlias = tuple[int, str, str, str, str, str, str]
_Counts: TypeAlias = list[int]


class Sums:
    """What records and sums amount to. `requests` is how many requests they are."""

    def __init__(self, *, users: int | None = None) -> None:
        """`users`: how many of one key and hour are told apart; None for all."""
        self._rows: dict[_Row, _Counts] = {}
        self._users: dict[tuple[int, str], set[str]] = {}
        self._most = users

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, record: UsageRecord) -> None:
        """Add a record."""
        hour = record.time // HOUR * HOUR
        estimated = record.completion if record.counted == "events" else 0
        self.add(
            UsageSum(
                hour,
                record.key,
                record.model,
                record.path,
                record.tenant,
                self._user(hour, record),
                record.adapter,
                1,
                record.prompt,
                record.cached,
                record.completion,
                estimated,
            )
        )

    def add(self, more: UsageSum) -> None:
        """Add a sum."""
        row = (more.hour, more.key, more.model, more.path, more.tenant, more.user, more.adapter)
        counts = self._rows.get(row)
        if counts is None:
            counts = self._rows[row] = [0, 0, 0, 0, 0]
        counts[0] += more.requests
        counts[1] += more.prompt
        counts[2] += more.cached
        counts[3] += more.completion
        counts[4] += more.estimated

    def rows(self) -> tuple[UsageSum, ...]:
        """Return the sums, in an order that does not depend on that of the records."""
        return tuple(UsageSum(*row, *counts) for row, counts in sorted(self._rows.items()))

    def _user(self, hour: int, record: UsageRecord) -> str:
        if self._most is None or not record.user:
            return record.user
        known = self._users.setdefault((hour, record.key), set())
        if record.user not in known:
            if len(known) >= self._most:
                return OTHERS
            known.add(record.user)
        return record.user


class RollUp:
    """Sums the messages of a stream after a sequence, in their order."""

    def __init__(self, after: int) -> None:
        self._after = self._until = after
        self._sums = Sums(users=USERS)
        self._found = self._dropped = 0

    @property
    def full(self) -> bool:
        """Whether the sums are as many as an event takes."""
        return len(self._sums) >= ROWS

    def take(self, seq: int, records: Iterable[UsageRecord], dropped: int) -> None:
        """Add the message with a sequence. A message that was taken already changes nothing."""
        if seq <= self._until:
            return
        self._until = seq
        self._found += 1
        self._dropped += dropped
        for record in records:
            self._sums.take(record)

    def event(self, until: int = 0) -> UsageRolledUp:
        """Return the event; `until`: the last sequence that was read, of a message or not."""
        until = max(until, self._until)
        lost = until - self._after - self._found
        return UsageRolledUp(self._after, until, self._sums.rows(), lost, self._dropped)


def without_users(sums: Iterable[UsageSum]) -> tuple[UsageSum, ...]:
    """Return sums of all users together."""
    total = Sums()
    for each in sums:
        total.add(replace(each, user=""))
    return total.rows()


def difference(said: UsageRolledUp, found: UsageRolledUp) -> Sequence[str]:
    """Return how an event differs from what its records amount to; nothing for the same bill."""
    wrong = []
    before, after = set(without_users(said.sums)), set(without_users(found.sums))
    for sign, rows in (("-", before - after), ("+", after - before)):
        for row in sorted(rows, key=astuple):
            wrong.append(
                f"{sign} {row.key} {row.model} {row.path}: {row.requests} requests, "
                f"{row.prompt} + {row.completion} tokens"
            )
    return wrong
