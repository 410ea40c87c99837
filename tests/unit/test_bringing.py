"""Sources come from the hub each in its turn; what they wait for is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

import pytest

from nebula.actors.node.weights import bringing, slots
from nebula.actors.node.weights import hub as hub_module
from nebula.actors.node.weights.bringing import Bringing
from nebula.actors.node.weights.hub import Hub, Unreachable
from nebula.actors.node.weights.provision import Files
from nebula.events.state import CachedSource
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadStarted,
    DownloadWaits,
    Event,
)
from tests.hub import SmallHub, config, tensors

pytestmark = pytest.mark.anyio

E = TypeVar("E", bound=Event)


class Told:
    """What was told, and what waits for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.held: dict[str, CachedSource] = {}
        self._more = asyncio.Condition()

    async def tell(self, event: Event) -> None:
        async with self._more:
            self.events.append(event)
            self._more.notify_all()

    async def of(self, kind: type[E], source: str, reason: str = "") -> E:
        """Return the first event of a kind about a source with a reason that begins so."""
        async with asyncio.timeout(120), self._more:
            while True:
                for event in self.events:
                    about = isinstance(event, kind) and getattr(event, "source", "") == source
                    if about and getattr(event, "reason", "").startswith(reason):
                        return cast("E", event)
                await self._more.wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    for module, name, seconds in (
        (bringing, "WORTH_TELLING", 0.1),
        (bringing, "LOOK", 0.05),
        (slots, "SPAN", 0.3),
        (slots, "PATIENCE", 0.5),
    ):
        monkeypatch.setattr(module, name, seconds)
    hub = SmallHub()
    hub.model("lab/fine", 30_000)
    yield hub
    hub.close()


@pytest.fixture
def hub(server: SmallHub, tmp_path: Path) -> Hub:
    return Hub(tmp_path / "cache", server.url)


def slow(server: SmallHub, source: str) -> str:
    name = f"{source.partition('/')[2]}.safetensors"
    server.sources[source] = {"config.json": config(), name: tensors(1_000_000)}
    server.rates[name] = 20_000
    return source


async def test_lists_that_drip_delay_no_other_and_are_told(hub: Hub, server: SmallHub) -> None:
    told = Told()
    fetches = Bringing(hub, told.tell, lambda: told.held)
    for source in ("lab/a", "lab/b", "lab/c"):
        server.odd[source] = "drips"
    async with asyncio.TaskGroup() as group:
        dripping = [
            group.create_task(fetches.bring(Files(each))) for each in ("lab/a", "lab/b", "lab/c")
        ]
        for source in ("lab/a", "lab/b", "lab/c"):
            assert await told.of(DownloadWaits, source) == DownloadWaits(
                source, "asks the hub for its files"
            )
        await fetches.bring(Files("lab/fine"))
        await told.of(DownloadFinished, "lab/fine")
        for task in dripping:
            task.cancel()


async def test_a_list_that_is_not_whole_in_time_fails_with_that(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LISTING_TIME", 0.3)
    server.odd["lab/a"] = "drips"
    told = Told()
    with pytest.raises(Unreachable, match="too slowly"):
        await Bringing(hub, told.tell, lambda: told.held).bring(Files("lab/a"))


async def test_those_behind_say_for_which_they_wait_and_run_beside_slow_ones(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "SPAN", 1.5)  # or a busy machine knows by then that they are slow
    told = Told()
    fetches = Bringing(hub, told.tell, lambda: told.held)
    async with asyncio.TaskGroup() as group:
        dripping = []
        for source in (slow(server, "lab/s1"), slow(server, "lab/s2")):
            dripping.append(group.create_task(fetches.bring(Files(source))))
            await told.of(DownloadStarted, source)
        await fetches.bring(Files("lab/fine"))
        # On a busy machine it may also tell that it asks the hub.
        waits = await told.of(DownloadWaits, "lab/fine", "waits for a free download: ")
        assert set(waits.reason.rpartition(": ")[2].split(", ")) == {"lab/s1", "lab/s2"}
        await told.of(DownloadFinished, "lab/fine")
        for task in dripping:
            assert not task.done()
            task.cancel()


async def test_where_too_many_are_slow_one_makes_room_and_says_so(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ALL", 2)
    told = Told()
    fetches = Bringing(hub, told.tell, lambda: told.held)
    dripping = []
    for source in (slow(server, "lab/s1"), slow(server, "lab/s2")):
        dripping.append(asyncio.create_task(fetches.bring(Files(source))))
        await told.of(DownloadStarted, source)
    await fetches.bring(Files("lab/fine"))
    assert sum(task.done() for task in dripping) == 1
    for task in dripping:
        task.cancel()
    failures = [e for e in await asyncio.gather(*dripping, return_exceptions=True) if e is not None]
    assert any("it makes way, and continues later" in str(each) for each in failures)


async def test_a_wait_that_was_told_is_ended_in_the_log(hub: Hub) -> None:
    told = Told()
    fetches = Bringing(hub, told.tell, lambda: told.held)
    told.held["lab/a"] = CachedSource(5, 5, whole=True)
    await fetches.abandoned("lab/a")
    await fetches.abandoned("lab/b")
    assert told.events == []
    fetches._waits_told |= {"lab/a", "lab/b"}
    await fetches.abandoned("lab/a")
    await fetches.abandoned("lab/b")
    assert told.events == [
        DownloadFinished("lab/a", 5),
        DownloadFailed("lab/b", "it is no longer wanted here", None),
    ]
