"""The worker that makes responses: nothing that it meets ends it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.errors import ConnectionClosedError

from nebula.events.failures import Failure, words
from nebula.events.inference import Piece
from nebula.http.inference import Limits
from nebula.http.responses import background_answer
from nebula.http.responses.background import BackgroundWork
from nebula.store import work_queue
from nebula.store.connection import Unavailable
from tests.unit.test_stored_responses import ASKED

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
    work = BackgroundWork(cast("Any", Gateway()), cast("Any", store), Limits(), cast("Any", None))
    running = asyncio.create_task(work.run())
    await store.tried_again.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def broken(cause: str) -> Exception:
    """What follows where a stream of /v1/responses broke, which no gateway continues."""
    body = f"{cause}: it is not a stream of text".encode()
    return background_answer._failed(ASKED, Piece(3, body, end=True, failure=Failure.CANT_CONTINUE))


def test_a_response_whose_engine_died_is_told_what_broke_it() -> None:
    failed = broken(Failure.ENGINE_FAILED)
    assert isinstance(failed, background_answer.EngineFailed)
    assert str(failed) == words(Failure.ENGINE_FAILED).client


def test_a_response_whose_engine_was_stopped_is_run_again_and_blames_nothing() -> None:
    assert isinstance(broken(Failure.ENGINE_STOPPED), background_answer.Later)
