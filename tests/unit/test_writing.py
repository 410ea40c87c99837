"""What a gateway writes to a client: once a turn of the event loop, in order, and all of it."""

import asyncio
from typing import cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from nebula.http import writing
from nebula.http.writing import TurnProtocol, TurnTransport

pytestmark = pytest.mark.anyio


class Kernel:
    """A transport that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed_after: int | None = None
        self.aborted = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed_after = len(self.writes)

    def abort(self) -> None:
        self.aborted.set()

    def get_extra_info(self, _: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed_after is not None


def turns(kernel: Kernel) -> TurnTransport:
    return TurnTransport(cast("asyncio.Transport", kernel))


async def test_an_answers_head_and_body_leave_together() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    transport.write(b"head ")
    transport.write(b"body")
    assert kernel.writes == []
    await asyncio.sleep(0)
    assert kernel.writes == [b"head body"]


async def test_what_is_written_in_a_later_turn_leaves_later() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    for part in (b"1", b"2"):
        transport.write(part)
        await asyncio.sleep(0)
    assert kernel.writes == [b"1", b"2"]


async def test_nothing_is_lost_when_the_connection_is_closed_in_the_same_turn() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    transport.write(b"the last words")
    transport.close()
    assert kernel.writes == [b"the last words"]
    assert kernel.closed_after == 1
    await asyncio.sleep(0)
    assert kernel.writes == [b"the last words"]


async def test_all_else_is_the_transports_own() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    assert not transport.is_closing()
    kernel.close()
    assert transport.is_closing()


# Clients that read nothing


def protocol(kernel: Kernel) -> TurnProtocol:
    config = uvicorn.Config(lambda: None, http=TurnProtocol, lifespan="off", log_config=None)
    config.load()
    made = TurnProtocol(config=config, server_state=ServerState(), app_state={})
    made.connection_made(cast("asyncio.Transport", kernel))
    return made


async def test_a_client_that_reads_nothing_for_long_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "UNREAD", 0.01)
    kernel = Kernel()
    protocol(kernel).pause_writing()
    async with asyncio.timeout(5):
        await kernel.aborted.wait()


async def test_one_that_reads_on_or_leaves_is_not() -> None:
    for goes_on in (TurnProtocol.resume_writing, lambda each: each.connection_lost(None)):
        kernel = Kernel()
        made = protocol(kernel)
        made.pause_writing()
        hanging_up = made._hanging_up
        goes_on(made)
        assert hanging_up is not None
        assert hanging_up.cancelled()
        assert made._hanging_up is None
