"""Copies of requests: they delay nothing, and an idle model is woken by one of them at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import ConnectionClosedError

from nebula.actors.gateway import mirroring
from nebula.actors.gateway.mirroring import NO_GATEWAY, QUEUE_TIMEOUT, WAKING, Mirror
from nebula.events.heartbeats import QueueLength
from nebula.events.inference import Request
from nebula.events.state import NameBinding

pytestmark = pytest.mark.anyio

REQUEST = Request(
    "r", "gw", "chat", "/v1/completions", b"{}", user="k/u", priority=3, patience=600.0, timeout=9.0
)


class Gateway:
    """What a mirror needs of a gateway: how many requests wait for each model, and its copies."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.copies: list[Request] = []
        self.refuses: Exception | None = None
        self.sending = SimpleNamespace(copy=self._copy)
        self.heartbeats = SimpleNamespace(queue=self._queue)

    def _queue(self, model: str) -> QueueLength:
        return QueueLength(self.waiting.get(model, 0), 0.0)

    def _copy(self, request: Request) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.copies.append(request)


def mirror() -> tuple[Gateway, Mirror]:
    gateway = Gateway()
    return gateway, Mirror(cast("Any", gateway))


async def test_a_copy_is_answered_to_its_end_by_the_other_model_behind_all_others() -> None:
    gateway, mirrors = mirror()
    mirrors.send(REQUEST, NameBinding("next", "sql"), b"other")
    (copy,) = gateway.copies
    assert (copy.model, copy.adapter, copy.body) == ("next", "sql", b"other")
    assert (copy.gateway, copy.user, copy.path) == (NO_GATEWAY, NO_GATEWAY, REQUEST.path)
    assert copy.id != REQUEST.id
    assert copy.keep, "no gateway asks for it: its engine must not take it for unwanted"
    assert copy.priority > 10**8
    assert (copy.patience, copy.timeout) == (QUEUE_TIMEOUT, REQUEST.timeout)


async def test_no_copy_goes_to_a_model_for_which_requests_wait() -> None:
    gateway, mirrors = mirror()
    gateway.waiting["next"] = 1
    mirrors.send(REQUEST, NameBinding("next"), b"{}")
    assert gateway.copies == []
    gateway.waiting = {"chat": 1}
    mirrors.send(REQUEST, NameBinding("next"), b"{}")
    assert len(gateway.copies) == 1


async def test_of_requests_for_an_idle_model_one_wakes_it_until_its_copy_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, mirrors = mirror()
    clock = SimpleNamespace(now=100.0)
    loop = SimpleNamespace(time=lambda: clock.now)
    monkeypatch.setattr(mirroring, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    for seconds in (0.0, 1.0, WAKING - 1.5):
        clock.now += seconds
        mirrors.wake(REQUEST, "idle", b"{}")
    assert [(each.model, each.patience, each.keep) for each in gateway.copies] == [
        ("idle", WAKING, False)
    ]
    mirrors.wake(REQUEST, "other", b"{}")
    assert len(gateway.copies) == 2, "another model is woken by itself"
    clock.now = 100.0 + WAKING
    mirrors.wake(REQUEST, "idle", b"{}")
    assert [each.model for each in gateway.copies] == ["idle", "other", "idle"]


async def test_a_copy_that_nats_refuses_is_dropped() -> None:
    gateway, mirrors = mirror()
    gateway.refuses = ConnectionClosedError()
    mirrors.send(REQUEST, NameBinding("next"), b"{}")
    mirrors.wake(REQUEST, "idle", b"{}")
    await asyncio.sleep(0)
    assert gateway.copies == []
