"""What a gateway does with a change while the log is known to take none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nebula.actors.gateway import log_watch
from nebula.actors.gateway.log_watch import TRY_AGAIN, LogWatch
from nebula.actors.gateway.readiness import BEHIND
from nebula.store.reach import Reach

pytestmark = pytest.mark.anyio


class Watch(LogWatch):
    """A watch by a clock of its own, of a log that ends where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 1000.0
        self.last = 7
        self.state = SimpleNamespace(seq=7)
        connection = SimpleNamespace(connected=True, trouble="")
        super().__init__(
            cast("Any", connection),
            cast("Any", SimpleNamespace(state=self.state)),
            lambda: self.clock,
            lambda: "",
        )
        monkeypatch.setattr(log_watch, "_now", lambda: self.clock)
        monkeypatch.setattr(log_watch, "reach", self._reached)
        self.restart()

    async def _reached(self, _: object) -> Reach:
        return Reach(self.last)

    async def later(self, seconds: float) -> None:
        self.clock += seconds
        await self._look()


async def test_after_a_change_that_failed_others_are_refused_until_one_is_to_be_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    await watch.later(1)
    assert watch.refuses() == ""
    watch.failed("the disk is full")
    await watch.later(TRY_AGAIN)
    assert watch.refuses() == "the disk is full"
    await watch.later(1)
    assert watch.refuses() == "", "it may take one again"
    watch.failed("the disk is full")
    assert watch.refuses() == "the disk is full"
    watch.succeeded()
    assert watch.refuses() == ""


async def test_an_event_in_the_log_shows_that_it_takes_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    await watch.later(1)
    watch.failed("the disk is full")
    watch.state.seq = watch.last = 8
    assert watch.refuses() == ""


async def test_a_gateway_is_behind_since_it_last_knew_of_more_than_it_has_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    watch._started = True
    for seq in (8, 9):
        watch.last = seq
        await watch.later(BEHIND - 1)
        await watch.later(BEHIND - 1)
        assert not watch.readiness().reasons
        watch.state.seq = seq
        await watch.later(1)
    watch.last = 10
    await watch.later(1)
    await watch.later(BEHIND + 1)
    (reason,) = watch.readiness().reasons
    assert "is behind for 11 s" in reason
