"""`nebula top` on usage, API keys and batches, at the moment on the slider."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from nebula.actors.in_flight_asking import InFlight
from nebula.cli.top import account_details, accounts
from nebula.cli.top.accounts import Account
from nebula.cli.top.listing import Chosen, Listing
from nebula.cli.top.source import Source
from nebula.events.batch_facts import BatchFinished, BatchProgressed, BatchStarted, Problem
from nebula.events.intents import BatchCancelRequested, BatchRequested
from nebula.events.key_events import KeyIssued, KeyRevoked
from nebula.events.limit_events import LimitsSet
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.usage import UsageSum
from nebula.events.usage_limits import UsageLimits
from nebula.events.version import LOCKS
from nebula.events.vocabulary import ClusterFounded
from nebula.history import bill
from nebula.history.moments import Moment
from nebula.store.connection import Unavailable
from nebula.store.usage_log import Usage
from tests.unit.story import Story
from tests.unit.terminal_screen import opened_top

pytestmark = pytest.mark.anyio

HOUR = 3600
NOON = int(datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp())
SUMS = (
    UsageSum(NOON, "ci", "chat", "/v1/chat/completions", requests=2, prompt=30, completion=5),
    UsageSum(NOON, "lab", "chat", "/v1/chat/completions", requests=1, prompt=900, completion=100),
    UsageSum(NOON - HOUR, "ci", "embed", "/v1/embeddings", requests=7, prompt=70, estimated=3),
)
USED = Account(NOON - 24 * HOUR, NOON + HOUR, SUMS, 2, 1)
HASH = "a" * 64


def shown(found: Listing, width: int = 120) -> list[str]:
    return [
        "".join(each.text for each in line).rstrip()
        for number in range(found.count)
        for line in found.lines(number, width)
    ]


def keys() -> Story:
    story = Story().given("c1", ClusterFounded("lab", LOCKS))
    story.given("ci", KeyIssued(HASH, ("infer",), name="robot", prefix="nbl_ci_x"))
    limits = UsageLimits(tokens_per_day=1000)
    story.given("lab", LimitsSet("tenant", UsageLimits(in_flight=4)))
    story.given("lena", KeyIssued("b" * 64, ("view", "infer"), tenant="lab", limits=limits))
    return story.given("old", KeyIssued("c" * 64, ("infer",))).given("old", KeyRevoked("lost"))


def batches() -> Story:
    asked = BatchRequested("file-1", "/v1/embeddings", owner="key:ci")
    story = Story().given("c1", ClusterFounded("lab", LOCKS))
    story.given("b1", asked).given("b1", BatchStarted(10), BatchProgressed(4, 1))
    return story.given("b2", BatchRequested("file-2", "/v1/chat/completions"))


# Lists


def test_usage_begins_with_all_of_it_and_lists_the_largest_first() -> None:
    found = accounts.usage(USED, ("key", "model"), "", "")
    lines = shown(found)
    assert "10 requests, 1,000 tokens of prompts, 105 of answers" in lines[0]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["lab", "chat", "1"],
        ["ci", "embed", "7"],
        ["ci", "chat", "2"],
    ]
    assert lines[4].startswith("3 of the tokens are of streams that were cut")
    assert lines[5].startswith("2 messages with records were lost")
    assert lines[6].startswith("1 requests are missing")
    assert found.about(0) is None
    assert found.about(1) == Chosen("usage", "lab\nchat")
    assert found.about(4) is None
    assert len(shown(accounts.usage(USED, ("key",), "CI", ""))) == 5
    assert accounts.usage(None, ("key",), "", "asking …").nothing == "asking …"


def test_what_one_line_used_is_told_with_its_times() -> None:
    lines = list(account_details.usage(USED, ("key",), ("ci",)))
    assert lines[0] == "key ci: 9 requests, 105 tokens"
    assert [line.split()[0] for line in lines[lines.index("WHEN") + 1 :]] == [
        "2026-11-29T11:00Z",
        "2026-11-29T12:00Z",
    ]


def test_hours_are_whole_and_end_after_the_moment() -> None:
    now = (NOON + 61) * 10**9
    assert bill.hours(now - 24 * HOUR * 10**9, now) == (NOON - 24 * HOUR, NOON + HOUR)
    assert bill.hours(-1, now) == (0, NOON + HOUR)


def test_keys_are_listed_as_they_stand_without_their_hashes() -> None:
    state = keys().state
    found = accounts.keys(state, "", state.time)
    assert [line.split()[:2] for line in shown(found)] == [
        ["ci", "valid"],
        ["lena", "valid"],
        ["old", "revoked"],
    ]
    assert not any(HASH[:8] in line for line in shown(found, 400))
    assert found.about(1) == Chosen("key", "lena")
    assert accounts.keys(state, "LAB", state.time).about(0) == Chosen("key", "lena")
    assert accounts.keys(state, "revoked", state.time).about(0) == Chosen("key", "old")
    assert accounts.keys(state, "nope", state.time).nothing.startswith("no key has 'nope'")


def test_a_key_is_told_with_what_is_left_of_its_limits_and_of_its_tenants() -> None:
    state = keys().state
    used = {"key.lena": {"tokens_per_day": 900}, "tenant.lab": {"in_flight": 1}}
    told = "\n".join(account_details.key(state, "lena", state.time, used))
    assert told.startswith("key lena is valid: view, infer")
    assert "LIMITS OF KEY LENA\ntokens per day 1,000 (900 used)" in told
    assert "LIMITS OF TENANT LAB\nin flight 4 (1 used)" in told
    assert "`nebula why key lena` tells how" in told
    assert "NO LIMITS OF KEY CI" in list(account_details.key(state, "ci", state.time, {}))
    assert list(account_details.key(state, "x", 0, {})) == ["there is no key 'x' at this moment"]


def test_batches_are_listed_the_newest_first_with_how_far_they_are() -> None:
    found = accounts.batches(batches().state, "")
    first, second = shown(found)
    assert first.split()[:2] == ["b2", "validating"]
    assert second.split()[:6] == ["b1", "in_progress", "4/10", "1", "/v1/embeddings", "ci"]
    assert found.about(1) == Chosen("batch", "b1")
    assert accounts.batches(batches().state, "embed").count == 1


def test_a_batch_is_told_with_its_files_and_what_ends_it() -> None:
    story = batches()
    told = list(account_details.batch(story.state, "b1", 1))
    assert told[0] == "batch b1 is in progress: 4 of 10 lines completed, 1 failed"
    assert "input     file-1" in told
    assert "`nebula batch cancel b1` ends it early" in told
    assert not any("cancel" in line for line in account_details.batch(story.state, "b1", None))
    story.given("b1", BatchCancelRequested())
    assert not any("ends it" in line for line in account_details.batch(story.state, "b1", 1))
    wrong = BatchFinished("failed", 0, 0, problems=(Problem("bad", "no JSON", 3),))
    told = list(account_details.batch(story.given("b2", wrong).state, "b2", None))
    assert told[-2:] == ["WRONG WITH ITS INPUT", "line 3: no JSON"]


# The application


class Accounting(Source):
    """A cluster's log that ends with a state, and its accounts."""

    def __init__(self, story: Story) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.story = story
        self.cut = ""
        self.asked: list[tuple[int, int]] = []

    @property
    def newest(self) -> State:
        return self.story.state

    async def at(self, wanted: Moment) -> State:
        return self.story.at(wanted.seq or 0)

    async def grown(self) -> None:
        await asyncio.Event().wait()

    async def records(self, after: int, until: int) -> list[Record]:
        return self.story.log[after:until]

    async def requests(self) -> InFlight:
        return InFlight((), 0, ())

    async def usage(self, since: int, until: int) -> Usage:
        self.asked.append((since, until))
        if self.cut:
            raise Unavailable(self.cut)
        return Usage(SUMS, 0, 0, 0)

    async def used(self, kind: str, identity: str) -> Mapping[str, int]:
        return {"tokens_per_day": 900} if (kind, identity) == ("key", "lena") else {}


async def test_usage_is_asked_for_once_shown_and_told_apart_by_what_is_wanted() -> None:
    source = Accounting(keys())
    async with opened_top(source) as screen:
        assert source.asked == []
        await screen.press("6")
        await screen.sees("KEY", "MODEL", "10 requests", "lab")
        await screen.press("b")
        await screen.sees("TENANT")
        await screen.press("s")
        async with asyncio.timeout(30):
            while len({until - since for since, until in source.asked}) < 2:
                await screen.pilot.pause(0.02)
        await screen.press("b", "down", "enter")
        await screen.sees("model chat: 3 requests", "WHEN")


async def test_usage_follows_the_slider_and_a_failure_is_told() -> None:
    source = Accounting(keys())
    async with opened_top(source, size=(120, 24)) as screen:
        await screen.press("6")
        await screen.sees("10 requests")
        source.cut = "NATS can't be reached"
        await screen.press("left")
        await screen.sees("PAST", "NATS can't be reached")
        assert source.asked[-1] == bill.hours(-1, screen.app.shown.state.time)


async def test_what_is_used_of_limits_comes_while_the_key_is_shown() -> None:
    async with opened_top(Accounting(keys())) as screen:
        await screen.press("7", "down", "enter")
        await screen.sees("key lena is valid", "tokens per day 1,000 (900 used)")


async def test_keys_and_batches_are_those_of_the_moment() -> None:
    async with opened_top(Accounting(batches())) as screen:
        await screen.press("8")
        await screen.sees("b2", "b1")
        await screen.press("left")
        await screen.sees("PAST", "4/10")
        assert not any("b2" in line for line in screen.lines)
        await screen.press("enter")
        await screen.sees("batch b1 is in progress")
    async with opened_top(Accounting(keys())) as screen:
        await screen.press("7", "left")
        await screen.sees("PAST", "lena")
        assert not any("revoked" in line for line in screen.lines)
