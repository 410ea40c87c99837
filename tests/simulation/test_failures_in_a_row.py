"""Engines that die again and again in a simulated world, and what the laws say of that."""

from __future__ import annotations

from collections.abc import Iterable
from unittest import mock

from nebula.actors.gateway.fatal import Process
from nebula.actors.gateway.recovery import Recovery
from nebula.actors.node.reconciliation import Restarts
from nebula.events.intents import ModelLoadRequested
from nebula.events.memory import GIB
from nebula.events.values import Device
from nebula.events.vocabulary import EngineFailed
from tests.simulation.invariants import BLAMED, TRIED
from tests.simulation.scenario import Hardware, Scenario, Step
from tests.simulation.world import World


def world(kills: Iterable[float], asks: Iterable[float] = ()) -> World:
    """A machine whose only engine is killed at these times (s), and asked three times at those."""
    machine = Hardware("n1", (Device(0, "gpu", "x", 80 * GIB),), {})
    load = ModelLoadRequested("/m", memory="8GiB")
    deaths = [Step(at, "kill engine", "n1") for at in kills]
    requests = [Step(at, "ask", "chat", 3) for at in asks]
    steps = (Step(1.0, "publish", "chat", event=load), *requests, *deaths)
    return World(Scenario(1, (machine,), 1, steps, 400.0))


def pauses(world: World) -> list[float | None]:
    failed = [record.content for record in world.cluster.journal.records]
    return [event.retry_in for event in failed if isinstance(event, EngineFailed)]


def test_an_engine_that_serves_between_its_deaths_is_started_soon_each_time() -> None:
    found = world((100.0, 180.0, 260.0, 340.0))
    assert found.run().law == ""
    assert pauses(found) == [1.0] * 4


def test_the_law_is_broken_where_service_ends_no_row() -> None:
    with mock.patch.object(Restarts, "settles", return_value=1e9):
        assert world((100.0, 180.0, 260.0)).run().law == TRIED


def test_the_law_is_broken_where_an_engine_that_was_ready_is_given_up() -> None:
    with mock.patch.object(Restarts, "gives_up", side_effect=[False, True]):
        assert world((100.0, 180.0)).run().law == TRIED


def _counts_twice(self: Recovery, processes: frozenset[Process]) -> None:
    self.flight.fatal += 2 * bool(processes)


def test_no_request_is_blamed_for_one_death_of_its_engine() -> None:
    found = world((100.3,), asks=[100.0, 100.1, 100.2]).run()
    assert found.law == ""
    assert found.asked["fatal"] == 0


def test_the_law_is_broken_where_one_death_counts_twice() -> None:
    with mock.patch.object(Recovery, "_count", _counts_twice):
        assert world((100.3,), asks=[100.0, 100.1, 100.2]).run().law == BLAMED
