"""How long models lacked replicas in a window of the log, and how long with other machines. Pure.

The log is folded as it was, and in parallel as if further machines had been there (`what_if`).
The time between two events counts for every model that lacked a place for a replica then. It also
also counts for a model that was woken by a request and did not serve yet.

Routers record which requests they refused or had wait, minute by minute (ADR 74). Such a minute
would not have been one with the machines if the model lacked a place at some time of it, and would
have at none.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from nebula.events import memory, subjects
from nebula.events.demand import MINUTE, DemandRecord, ModelDemand, merged
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.vocabulary import ModelWoken
from nebula.history.moments import Moment
from nebula.history.what_if import BadCondition, WhatIf, With

_MACHINE = re.compile(r"\s*([^\s:]+)\s*:\s*(.+)")
_DEVICES = re.compile(r"(?:(\d{1,3})\s*x\s*)?(.+)")

MOST_DEVICES = 64
"""Devices of a machine, at most."""


class Unmet(Struct, frozen=True):
    """Seconds in which a model lacked a place for a replica, and would have `otherwise`.

    `waking`: seconds between a request that woke it and its first replica that served.
    `refusing`, `waiting`: seconds of the minutes in which requests were refused, and waited while
    it did not serve; `refusing_otherwise`, `waiting_otherwise` those that would have been left.
    `refused`: how many requests were refused, by reason. `requests`: how many waited so, `longest`
    of them for so many seconds.
    """

    model: str
    lacking: float
    otherwise: float
    waking: float
    refusing: float = 0.0
    refusing_otherwise: float = 0.0
    waiting: float = 0.0
    waiting_otherwise: float = 0.0
    refused: dict[str, int] = {}
    requests: int = 0
    longest: float = 0.0


class _Minute(Struct):
    """A minute of a model with requests that were refused or waited.

    `lacked`: whether the model lacked a place in it. `would_lack`: with the machines.
    """

    begin: int
    demand: ModelDemand
    lacked: bool = False
    would_lack: bool = False

    @property
    def saved(self) -> bool:
        return self.lacked and not self.would_lack

    @property
    def end(self) -> int:
        return self.begin + MINUTE


def machine(text: str) -> With:
    """Read `n4: 2x80GiB` or `n4: 80GiB, 40GiB`. Raise BadCondition."""
    found = _MACHINE.fullmatch(text)
    if found is None or not subjects.is_token(found[1]):
        raise BadCondition(f"{text!r} is not a machine: write 'n4: 2x80GiB'")
    sizes: list[int] = []
    for part in found[2].split(","):
        devices = _DEVICES.fullmatch(part.strip())
        if devices is None:
            raise BadCondition(f"{text!r} is not a machine: write 'n4: 2x80GiB'")
        try:
            size = memory.parse(devices[2])
        except ValueError as error:
            raise BadCondition(f"{text!r}: {error}") from error
        sizes += [size] * int(devices[1] or 1)
    if not 0 < len(sizes) <= MOST_DEVICES:
        raise BadCondition(f"{text!r}: a machine has 1 to {MOST_DEVICES} devices")
    return With(found[1], tuple(sizes))


class UnmetDemand:
    """Sums the time of each model, event by event, from the moment `since` on.

    `records`: what routers recorded of requests that were refused or waited.
    """

    def __init__(
        self,
        machines: Sequence[With] = (),
        since: Moment | None = None,
        records: Iterable[DemandRecord] = (),
    ) -> None:
        self.what_if = WhatIf(machines)
        self._since = since
        self._counted = self._end = 0
        self._lacking: Counter[str] = Counter()
        self._otherwise: Counter[str] = Counter()
        self._waking: Counter[str] = Counter()
        self._woken: set[str] = set()
        self._coming = deque(_minutes(records))
        self._current: list[_Minute] = []
        self._met: defaultdict[str, list[_Minute]] = defaultdict(list)
        self.seconds = 0.0
        """Length of the window so far."""

    def take(self, record: Record) -> None:
        """Fold one more record. Raise BadLog."""
        self.until(record.time)
        self.what_if.take(record)
        state = self.what_if.actual.state
        if isinstance(record.content, ModelWoken) and record.id in state.models:
            self._woken.add(record.id)
        self._woken = {identity for identity in self._woken if _wakes(state, identity)}
        since = self._since
        if not self._counted and (since is None or since.reached(record.seq, record.time)):
            self._counted = record.time
        self._end = record.time

    def until(self, time: int) -> None:
        """Count the time up to a moment (ns) at which nothing has happened since the last event."""
        begin = self._begin()
        if begin is None or time <= begin:
            return
        passed = time - begin
        self._counted = time
        self.seconds += passed / 1e9
        self._meet(begin, time)
        for sums, models in (
            (self._lacking, _lacking(self.what_if.actual.state)),
            (self._otherwise, _lacking(self.what_if.otherwise)),
            (self._waking, self._woken),
        ):
            for identity in models:
                sums[identity] += passed

    def _begin(self) -> int | None:
        """Return from when on (ns) time counts that was not counted yet; None for not at all."""
        if not self._end:
            return None
        if self._counted:
            return self._counted
        since = self._since
        return since.time if since is not None and since.time is not None else None

    def _meet(self, begin: int, end: int) -> None:
        """Look at the minutes that have a part between two events."""
        while self._coming and self._coming[0].begin < end:
            minute = self._coming.popleft()
            if minute.end > begin:
                self._current.append(minute)
                self._met[minute.demand.model].append(minute)
        if self._current:
            lacking = _lacking(self.what_if.actual.state)
            would_lack = _lacking(self.what_if.otherwise)
            for minute in self._current:
                minute.lacked = minute.lacked or minute.demand.model in lacking
                minute.would_lack = minute.would_lack or minute.demand.model in would_lack
            self._current = [each for each in self._current if each.end > end]

    def found(self) -> list[Unmet]:
        """Return the models that lacked something, or would have, those that did longest first."""
        models = {*self._lacking, *self._otherwise, *self._waking, *self._met}
        found = [
            _with_requests(
                Unmet(
                    identity,
                    self._lacking[identity] / 1e9,
                    self._otherwise[identity] / 1e9,
                    self._waking[identity] / 1e9,
                ),
                self._met.get(identity, []),
            )
            for identity in models
        ]
        return sorted(
            found,
            key=lambda each: (
                -each.lacking,
                -each.refusing,
                -each.waiting,
                -each.waking,
                each.model,
            ),
        )


class RecordedDemand(Struct, frozen=True):
    """What routers recorded of a model: seconds of the minutes in which requests were refused, and
    waited while it did not serve.

    `refused`: how many requests were refused, by reason. `requests`: how many waited so, `longest`
    of them for so many seconds.
    """

    model: str
    refusing: float
    waiting: float
    refused: dict[str, int]
    requests: int
    longest: float


def recorded(records: Iterable[DemandRecord]) -> list[RecordedDemand]:
    """Return what routers recorded of each model, that with the most minutes first."""
    found: defaultdict[str, list[_Minute]] = defaultdict(list)
    for minute in _minutes(records):
        found[minute.demand.model].append(minute)
    sums = [_with_requests(Unmet(model, 0, 0, 0), found[model]) for model in found]
    sums.sort(key=lambda each: (-each.refusing, -each.waiting, each.model))
    return [
        RecordedDemand(
            each.model, each.refusing, each.waiting, each.refused, each.requests, each.longest
        )
        for each in sums
    ]


def _minutes(records: Iterable[DemandRecord]) -> list[_Minute]:
    """Return each minute of each model once, in order, whichever routers recorded it."""
    found: dict[tuple[int, str], ModelDemand] = {}
    for record in records:
        for each in record.models:
            key = record.time // MINUTE * MINUTE, each.model
            found[key] = merged(found[key], each) if key in found else each
    return [_Minute(begin, found[begin, model]) for begin, model in sorted(found)]


def _with_requests(unmet: Unmet, minutes: Sequence[_Minute]) -> Unmet:
    """Return what a model lacked, with the minutes in which requests were refused or waited."""
    refusing = [each for each in minutes if each.demand.refused]
    waiting = [each for each in minutes if each.demand.requests or each.demand.waited]
    whole = ModelDemand(unmet.model)
    for each in minutes:
        whole = merged(whole, each.demand)
    return replace(
        unmet,
        refusing=60.0 * len(refusing),
        refusing_otherwise=60.0 * sum(not each.saved for each in refusing),
        waiting=60.0 * len(waiting),
        waiting_otherwise=60.0 * sum(not each.saved for each in waiting),
        refused=whole.refused,
        requests=whole.requests,
        longest=whole.longest,
    )


def _lacking(state: State) -> list[str]:
    """Return the models that lack a place for a replica."""
    return [identity for identity in state.unsettled if state.models[identity].unschedulable]


def _wakes(state: State, identity: str) -> bool:
    model = state.models.get(identity)
    if model is None or model.asleep or model.unloading:
        return False
    return not any(replica.serving for replica in state.replicas_of(model))
