"""The worker that makes responses: nothing that it meets ends it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.errors import ConnectionClosedError

from nebula.http.inference import Limits
from nebula.http.responses.background import BackgroundWork
from nebula.store import work_queue
from nebula.store.connection import Unavailable

pytestmark = pytest.mark.anyio


class Gateway:
    able = True


class Store:
    """A store that can't be opened, each time for another reason."""

    def __init__(self) -> None:
        self.reasons: list[Exception] = [
            Unavailable("no NATS"),
            ConnectionClosedError(),
            TimeoutError(),
            RuntimeError("a fault in the code"),
        ]
        self.tried_again = asyncio.Event()

    async def open(self) -> None:
        if not self.reasons:
            self.tried_again.set()
            await asyncio.Event().wait()
        raise self.reasons.pop(0)


async def test_a_worker_tries_again_whatever_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "PAUSE", 0)
    store = Store()
    work = BackgroundWork(cast("Any", Gateway()), cast("Any", store), Limits())
    running = asyncio.create_task(work.run())
    await store.tried_again.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
