"""What routers could not serve at once, by minute: refused, or kept waiting for a start."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from nebula.actors.router import demand as demands
from nebula.actors.router import demand_recording
from nebula.actors.router.demand import Demand
from nebula.actors.router.demand_recording import WAITING, DemandRecorder
from nebula.events.demand import MINUTE, DemandRecord, ModelDemand, merged
from nebula.store.connection import Unavailable
from nebula.store.demand import DemandStore
from tests.unit.story import Story, cluster, load
from tests.unit.test_dispatch import Router


def test_what_a_minute_had_is_told_once() -> None:
    counted = Demand()
    counted.refused("chat", "queue-full")
    counted.refused("chat", "queue-full")
    counted.refused("poet", "no-place")
    assert counted.take(0.0, 3 * MINUTE + 7) == DemandRecord(
        3 * MINUTE,
        (ModelDemand("chat", {"queue-full": 2}), ModelDemand("poet", {"no-place": 1})),
    )
    assert counted.take(60.0, 4 * MINUTE) is None


def test_a_wait_counts_in_each_minute_that_it_lasts() -> None:
    counted = Demand()
    counted.waits("r1", "chat", 10.0)
    counted.waits("r2", "chat", 40.0)
    counted.left("r2", 50.0)
    first = counted.take(60.0, MINUTE)
    second = counted.take(120.0, 2 * MINUTE)
    counted.left("r1", 130.0)
    third = counted.take(180.0, 3 * MINUTE)
    assert [each and each.models for each in (first, second, third)] == [
        (ModelDemand("chat", requests=2, waited=60.0, longest=50.0),),
        (ModelDemand("chat", waited=60.0, longest=110.0),),
        (ModelDemand("chat", waited=10.0, longest=120.0),),
    ]
    assert counted.take(240.0, 4 * MINUTE) is None


def test_models_beyond_the_bound_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "MODELS", 2)
    counted = Demand()
    for number in range(5):
        counted.refused(f"m{number}", "no-place")
    record = counted.take(0.0, 0)
    assert record is not None
    assert {each.model: each.refused["no-place"] for each in record.models} == {
        "m0": 1,
        "m1": 1,
        "other": 3,
    }


def test_the_records_of_two_routers_are_added() -> None:
    one = ModelDemand("chat", {"queue-full": 1}, 1, 2.0, 2.0)
    other = ModelDemand("chat", {"queue-full": 2, "no-place": 1}, 2, 9.0, 8.0)
    assert merged(one, other) == ModelDemand("chat", {"no-place": 1, "queue-full": 3}, 3, 11.0, 8.0)


def told(router: Router) -> tuple[ModelDemand, ...]:
    record = router.dispatch.counts.demand.take(router.clock, 0)
    return () if record is None else record.models


def asked(**options: int) -> tuple[Story, Router]:
    story = cluster(n1=[80])
    story.given("chat", load(1, "8GiB", **options)).settles()
    return story, Router(story)


def test_a_request_that_waits_for_a_start_is_counted_until_it_leaves() -> None:
    story, router = asked()
    router.ask("r1", patience=600.0)
    router.ask("r2", patience=600.0)
    router.clock += 30
    router.cancel("r2")
    (replica,) = story.places("chat")
    story.runs(replica)
    router.clock += 10
    router.dispatch.react()
    assert [each.request.id for each in router.sent] == ["r1"]
    router.clock += 100
    assert told(router) == (ModelDemand("chat", requests=2, waited=70.0, longest=40.0),)


def test_a_request_that_waits_while_replicas_are_busy_is_not_waiting_for_a_start() -> None:
    story, router = asked(max_in_flight=1)
    (replica,) = story.places("chat")
    story.runs(replica)
    router.ask("r1", patience=600.0)
    router.ask("r2", patience=600.0)
    assert len(router.sent) == 1
    assert told(router) == ()


def test_requests_that_are_refused_are_counted_but_not_those_of_slack() -> None:
    story, router = asked(max_in_flight=1, max_waiting=0)
    (replica,) = story.places("chat")
    story.runs(replica)
    router.ask("r1")
    router.ask("r2")
    router.ask("r3", slack=True)
    assert told(router) == (ModelDemand("chat", {"queue-full": 1}),)


def test_a_request_that_has_waited_too_long_is_counted_as_both() -> None:
    _, router = asked()
    router.ask("r1", patience=50.0)
    router.clock += 60
    router.dispatch.react()
    assert told(router) == (
        ModelDemand("chat", {"waited-too-long": 1}, requests=1, waited=60.0, longest=60.0),
    )


def test_what_another_router_gets_waits_here_no_more() -> None:
    _, router = asked()
    router.ask("r1", patience=50.0)
    router.clock += 5
    router.dispatch.hand_over()
    assert told(router) == (ModelDemand("chat", requests=1, waited=5.0, longest=5.0),)
    router.clock += 60
    assert told(router) == ()


@pytest.mark.anyio
async def test_a_router_that_does_not_reach_nats_keeps_only_so_many_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demand, stored, away = Demand(), list[DemandRecord](), True

    async def put(_: DemandStore, __: str, record: DemandRecord) -> None:
        if away:
            raise Unavailable("NATS is away")
        stored.append(record)

    nowhere: Any = None
    recorder = DemandRecorder(nowhere, "r1", 1, demand)
    monkeypatch.setattr(DemandStore, "put", put)
    for _ in range(WAITING + 5):
        demand.refused("chat", "no-place")
        await recorder.end()
    away = False
    await recorder.end()
    assert len(stored) == WAITING


@pytest.mark.anyio
async def test_a_router_records_after_each_minute_in_which_there_was_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: asyncio.Queue[DemandRecord] = asyncio.Queue()

    async def put(_: DemandStore, __: str, record: DemandRecord) -> None:
        stored.put_nowait(record)

    monkeypatch.setattr(DemandStore, "put", put)
    monkeypatch.setattr(demand_recording, "MINUTE", 10**6)
    demand, nowhere = Demand(), cast(Any, None)
    running = asyncio.create_task(DemandRecorder(nowhere, "r1", 1, demand).run())
    for count in (1, 2):
        for _ in range(count):
            demand.refused("chat", "no-place")
        record = await stored.get()
        assert record.models == (ModelDemand("chat", {"no-place": count}),)
    running.cancel()
    assert stored.empty()
