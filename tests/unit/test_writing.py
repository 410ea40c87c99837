"""What a gateway writes to a client: once a turn of the event loop, in order, and all of it."""

import asyncio
from typing import cast

import pytest

from nebula.http.server.writing import TurnTransport

pytestmark = pytest.mark.anyio


class Kernel:
    """A transport that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed_after = len(self.writes)

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


async def test_nothing_is_written_to_a_client_that_left_in_the_same_turn() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    transport.write(b"an event")
    kernel.close()
    transport.write_now(b"and one more")
    await asyncio.sleep(0)
    transport.write_now(b"and another")
    assert kernel.writes == []


async def test_all_else_is_the_transports_own() -> None:
    kernel = Kernel()
    transport = turns(kernel)
    assert not transport.is_closing()
    kernel.close()
    assert transport.is_closing()
