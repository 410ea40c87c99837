"""What `nebula top` shows: a window at a moment, and all of one thing."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from nebula.actors.in_flight_asking import InFlight
from nebula.cli.elsewhere import shown_message
from nebula.cli.top import account_details, accounts, details, frame, happenings, windows
from nebula.cli.top.accounts import GROUPINGS, SPANS, Account
from nebula.cli.top.listing import Line, Listing, Span, fit
from nebula.cli.top.timeline import Timeline
from nebula.events.record import Record
from nebula.events.showing import shown
from nebula.events.state import EMPTY, State
from nebula.history import attention, bill
from nebula.history.attention import Concern, Survey

HOME, MODELS, NODES, REQUESTS, EVENTS, USAGE, KEYS, BATCHES = range(len(frame.WINDOWS))

EVENTS_LISTED = 500
"""Events that are listed, at most: those before the shown moment."""

_DAY = 24 * 3600 * 10**9

CONCERNS = 100
"""Concerns that are listed, at most."""


class Shown:
    """A window over a state. `grows`: whether the log is a cluster's, and not a file."""

    def __init__(self, state: State, line: Timeline, *, grows: bool) -> None:
        self.state = state
        self.line = line
        self.grows = grows
        self.window = HOME
        self.find = ""
        self.records: list[Record] = []
        self.requests: InFlight | None = None
        self.no_requests = "asking …"
        """What is said instead of requests if there are none."""
        self.by = self.span = 0
        """Which of GROUPINGS usage is told apart by, and of which of SPANS it is."""
        self.account: Account | None = None
        self.no_account = "asking …"
        self.used: dict[str, Mapping[str, int]] = {}
        """What is used of limits now, by where they are."""
        self.surveyed: State | None = None
        """The state of which `survey` tells; None before the first."""
        self.survey = Survey([], 0, {})

    @property
    def present(self) -> bool:
        """Whether it is the present of a cluster."""
        return self.grows and self.line.live

    @property
    def _now(self) -> int | None:
        return time.time_ns() if self.present else None

    @property
    def hours(self) -> tuple[int, int]:
        """The hours that usage is of: the first, and that after the last, in s since 1970."""
        end = self._now or self.state.time
        return bill.hours(end - SPANS[self.span][1] * _DAY, end)

    @property
    def accounted(self) -> bool:
        """Whether it is known what was used in these hours."""
        known = self.account
        return known is not None and (known.since, known.until) == self.hours

    async def look(self, rest: float, wanted: Callable[[], bool]) -> bool:
        """Find what needs attention, piece by piece; return whether there is something new.

        Keys are read between two pieces. `rest`: how long to rest after a piece, in times of what
        it took. It ends early once it is not `wanted` any more.
        """
        state, now = self.state, self._now
        if self.surveyed is state:
            return False
        findings, listed = attention.Findings(), []
        began = time.monotonic()
        for each in attention.suspects(state):
            findings.add(each)
            if isinstance(each, attention.Healthy):
                await asyncio.sleep(rest * (time.monotonic() - began))
                if not wanted():
                    return False
                began = time.monotonic()
        found = attention.order(findings.suspects)
        for concern in attention.concerns(state, found[:CONCERNS], now):
            listed.append(_runnable(concern))
            await asyncio.sleep(0)
        self.survey = Survey(listed, len(found) - len(listed), findings.phases)
        self.surveyed = state
        return True

    def listing(self) -> Listing:
        """Return the list of the open window."""
        if self.window == HOME:
            listed = windows.home(self.survey)
            return listed if self.surveyed is not None else replace(listed, nothing="looking …")
        if self.window == MODELS:
            return windows.models(self.state, self.find, self._now)
        if self.window == NODES:
            return windows.nodes(self.state, self.find)
        if self.window == EVENTS:
            return happenings.events(self._events(), self.find)
        if self.window == USAGE:
            account = self.account if self.accounted else None
            return accounts.usage(account, GROUPINGS[self.by], self.find, self.no_account)
        if self.window == KEYS:
            return accounts.keys(self.state, self.find, self._now or self.state.time)
        if self.window == BATCHES:
            return accounts.batches(self.state, self.find)
        if not self.present:
            past = "what was in flight then is not in the log"
            past += "; l shows the present" if self.grows else ""
            return happenings.requests((), self.find, 0, past)
        found = shown(self.requests.requests) if self.requests is not None else ()
        return happenings.requests(found, self.find, time.time(), self.no_requests)

    def _events(self) -> list[Record]:
        return [each for each in self.records if each.seq <= self.state.seq][-EVENTS_LISTED:]

    def tabs(self, width: int) -> Line:
        """Return the line with the names of the windows."""
        legend = windows.LEGEND if self.window == NODES else ""
        if self.window == USAGE:
            legend = f"of {SPANS[self.span][0]} (s), by {' and '.join(GROUPINGS[self.by])} (b)"
        return frame.tabs(self.window, self.find, legend, width)

    def head(self, listing: Listing, width: int) -> Line:
        """Return the line above the list."""
        if self.window == HOME:
            return (Span(fit(windows.summary(self.surveyed or EMPTY, self.survey), width), "dim"),)
        return (Span("  "), *listing.head(max(0, width - 2)))

    def missing(self) -> tuple[int, list[Record]]:
        """Return after which sequence events are still to be read, and those before that stay."""
        had, until = self.records, self.state.seq
        begin = max(0, until - EVENTS_LISTED)
        if not had or had[0].seq > begin + 1 or had[-1].seq < begin:
            return begin, []
        return had[-1].seq, [each for each in had if each.seq > begin]

    def page(self, kind: str, identity: str, number: int) -> Callable[[], Iterable[str]] | None:
        """Return what makes the text about one thing, at whatever moment is shown then."""
        if kind == "model":
            return lambda: _told(details.model(self.state, identity, self._now))
        if kind == "node":
            return lambda: _told(details.node(self.state, identity, self._now))
        if kind == "key":
            used = self.used if self.present else {}
            return lambda: _told(
                account_details.key(self.state, identity, self._now or self.state.time, used)
            )
        if kind == "batch":
            return lambda: _told(account_details.batch(self.state, identity, self._now))
        if kind == "usage":
            account, by = self.account, GROUPINGS[self.by]
            if account is None:
                return None
            return lambda: _told(account_details.usage(account, by, identity.split("\n")))
        if kind == "event":
            record = next((each for each in self.records if str(each.seq) == identity), None)
            lines = list(_told(details.event(record))) if record is not None else []
            return (lambda: lines) if lines else None
        if kind == "request":
            found = shown(self.requests.requests) if self.requests is not None else ()
            one = next((each for each in found if each.id == identity), None)
            return None if one is None else lambda: _told(details.request(one, time.time()))
        concern = self.survey.concerns[number]
        return lambda: details.concern(concern)


def _told(lines: Iterable[str]) -> Iterable[str]:
    return (shown_message(each) for each in lines)


def _runnable(concern: Concern) -> Concern:
    """Return a concern whose commands reach this cluster."""

    def reach(line: str) -> str:
        return shown_message(f"`{line}`").strip("`") if line else ""

    return replace(
        concern,
        text=shown_message(concern.text),
        todo=shown_message(concern.todo),
        command=reach(concern.command),
        why=reach(concern.why),
    )
