"""When an engine tells routers of requests that have ended: sooner if one may wait for that."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from nebula.actors.engine.ended import DIRECT_EVERY, TOLD_EVERY, EndedRequests, went_directly
from nebula.events import envelope
from nebula.events.inference import Finished, ReplicaCandidate, Request, Routed


class Timer:
    """A call that a loop makes later, unless it is cancelled."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Engine:
    """An engine whose requests end, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[float, tuple[str, ...]]] = []
        self._timers: list[Timer] = []
        self._before: list[Callable[[], None]] = []
        connection = SimpleNamespace(client=self)
        self.ended = EndedRequests(cast("Any", connection), "chat", "chat-0", (), ())

    def post(self, _: str, __: bytes, body: bytes) -> None:
        self.told.append((self.now, msgspec.json.decode(body, type=Finished).requests))

    def before_write(self, call: Callable[[], None]) -> None:
        self._before.append(call)

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        self._timers.append(Timer(at, call))
        return self._timers[-1]

    def ends(self, identity: str, *, direct: bool = True, failed: bool = False) -> None:
        request = Request(identity, "gw", "chat", "/v1/completions", b"")
        exchange = SimpleNamespace(request=request, direct=direct, failed=failed, proven=True)
        self.ended.add(cast("Any", exchange), cast("Any", self))

    def writes(self) -> None:
        """Let the connection write what waits for it."""
        before, self._before = self._before, []
        for call in before:
            call()

    def passes(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due."""
        self.writes()
        until = self.now + seconds
        due = [each for each in self._timers if not each.cancelled and each.at <= until]
        self._timers = [each for each in self._timers if each not in due and not each.cancelled]
        for each in sorted(due, key=lambda timer: timer.at):
            self.now = max(self.now, each.at)
            each.call()
            self.writes()
        self.now = until


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize(("direct", "every"), [(False, TOLD_EVERY), (True, DIRECT_EVERY)])
def test_an_end_is_told_at_once_and_those_after_it_together(
    engine: Engine, direct: bool, every: float
) -> None:
    for identity in ("a", "b", "c"):
        engine.ends(identity, direct=direct)
        engine.writes()
    engine.passes(1.0)
    engine.ends("d", direct=direct)
    engine.writes()
    assert engine.told == [
        (100.0, ("a",)),
        (100.0 + every, ("b", "c")),
        (101.0, ("d",)),
    ]


@pytest.mark.parametrize("of_router", [{"direct": False}, {"failed": True}])
def test_one_that_routers_may_wait_for_takes_direct_ones_with_it(
    engine: Engine, of_router: dict[str, bool]
) -> None:
    engine.ends("a")
    engine.writes()
    engine.ends("b")
    engine.passes(TOLD_EVERY)
    engine.ends("c", **of_router)
    engine.writes()
    engine.passes(1.0)
    assert engine.told == [(100.0, ("a",)), (100.0 + TOLD_EVERY, ("b", "c"))]


def test_ends_of_one_turn_are_told_in_one_message(engine: Engine) -> None:
    engine.ends("a", direct=False)
    engine.ends("b")
    engine.ends("c", direct=False)
    engine.passes(1.0)
    assert engine.told == [(100.0, ("a", "b", "c"))]


def test_a_request_says_in_its_header_whether_a_gateway_has_sent_it_itself() -> None:
    block = envelope.request_block(Request("r", "gw", "chat", "/v1/completions", b""))
    by = {
        gateway: Routed("r1", 9, (ReplicaCandidate("c", 0),), gateway=gateway)
        for gateway in ("", "gw")
    }
    assert not went_directly(block)
    assert not went_directly(envelope.routed_block(block, 1, by[""]))
    assert went_directly(envelope.routed_block(block, 1, by["gw"]))
