"""Whether a command that waits is told that those it waits for are silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import TimeoutError as NatsTimeout

from nebula.events import subjects
from nebula.history.outcome import Coming
from nebula.http.silence import silent

pytestmark = pytest.mark.anyio

NODE = Coming("chat-0 on n1 starts", "n1")
OTHER = Coming("chat-1 on n2 starts", "n2")
ROUTER = Coming("a router has yet to decide")


class Nats:
    """NATS with the heartbeats of the last minute."""

    def __init__(self, *heard: str, error: Exception | None = None) -> None:
        self.connected = True
        self.client = self
        self._heard = dict.fromkeys(heard, 1)
        self._error = error

    def jetstream(self, **_: object) -> Nats:
        return self

    async def stream_info(self, *_: object, **__: object) -> object:
        if self._error is not None:
            raise self._error
        return SimpleNamespace(state=SimpleNamespace(subjects=self._heard))

    async def says(self, *awaited: Coming) -> str:
        return await silent(cast("Any", self), awaited)


async def test_of_nodes_that_are_waited_for_one_that_is_heard_is_enough() -> None:
    assert await Nats(subjects.node_status("n2")).says(NODE, OTHER) == ""
    told = await Nats(subjects.router_status("r")).says(NODE, OTHER)
    assert told.startswith("nothing has been heard from nodes n1, n2 for a minute: ")
    assert "from node n1 for" in await Nats().says(NODE)


async def test_a_router_is_enough_where_no_node_is_waited_for() -> None:
    assert await Nats(subjects.router_status("r")).says(ROUTER) == ""
    told = await Nats(subjects.node_status("n1")).says(ROUTER)
    assert told == "no router has been heard from for a minute: start one with `nebula router`"


async def test_nothing_is_said_where_nats_does_not_answer() -> None:
    assert await Nats(error=NatsTimeout()).says(ROUTER) == ""
    away = Nats()
    away.connected = False
    assert await away.says(NODE) == ""
