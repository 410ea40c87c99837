"""A client that was let in before tries again at once when there are other credentials to try."""

from __future__ import annotations

import asyncio
import logging

import pytest
from nats.errors import Error as NatsError

from nebula.store import reaching
from nebula.store.connection import Connection
from nebula.store.credentials import Way
from nebula.store.lasting import LastingClient, ToldByServer
from nebula.store.reaching import Cause, Trouble

pytestmark = pytest.mark.anyio

REFUSED = Trouble("n:4222", Cause.CREDENTIALS, "authorization violation")


async def rests(monkeypatch: pytest.MonkeyPatch, *ways: Way | Exception) -> list[float]:
    """Return how long a client rests before its next try, where the file has these in turn."""
    slept: list[float] = []
    there = iter(ways)

    def way() -> Way:
        found = next(there, ways[-1])
        if isinstance(found, Exception):
            raise found
        return found

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    client = LastingClient(way, lambda: None)
    client._login = Way(("nats://n:4222",))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await client._rest(5.0)
    monkeypatch.undo()
    return slept


async def test_other_credentials_end_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Way(("nats://n:4222",)), Way(("nats://u:p@n:4222",))
    assert len(await rests(monkeypatch, old, old, new)) == 3
    assert len(await rests(monkeypatch, OSError("away"), new)) == 2


async def test_without_them_the_pause_is_as_long_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = await rests(monkeypatch, Way(("nats://n:4222",)))
    assert sum(slept) == pytest.approx(5.0)


async def test_replaced_credentials_become_an_error_once_no_server_lets_it_in(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection("nats://n:4222", "router-1")
    connection.client._connected_at = 1.0
    now = [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    await connection._on_error(ToldByServer("authorization violation"))
    connection.client.troubles["n:4222"] = REFUSED
    connection._on_trouble()
    assert {each.levelno for each in caplog.records} == {logging.WARNING}
    assert "connects again with those that it has now" in caplog.text
    now[0] += reaching.REFUSED_FOR
    connection._on_trouble()
    assert caplog.records[-1].levelno == logging.ERROR
    assert "it refuses the user or password" in caplog.records[-1].getMessage()
    await connection._on_error(ToldByServer("maximum connections exceeded"))
    assert caplog.records[-1].levelno == logging.ERROR
    await connection._on_error(NatsError("other"))
