"""Which nodes' stored heartbeats are looked up, in turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js.errors import NotFoundError

from nebula.actors.router.last_heartbeats import AT_ONCE, last_heartbeats
from nebula.events import subjects

pytestmark = pytest.mark.anyio


class Stream:
    """The stored heartbeats of nodes, with their sequences."""

    def __init__(self, **seqs: int) -> None:
        self._seqs = {subjects.node_status(node): seq for node, seq in seqs.items()}
        self.client = self

    def jetstream(self, **_: object) -> Stream:
        return self

    async def get_last_msg(self, _: str, subject: str, **__: object) -> object:
        if subject not in self._seqs:
            raise NotFoundError
        return SimpleNamespace(seq=self._seqs[subject])


async def test_a_few_are_all_asked_about_in_turns() -> None:
    stream = cast("Any", Stream(a=1, b=2))
    for first, asked in ((0, ("a", "b", "c")), (2, ("c", "a", "b"))):
        found = await last_heartbeats(stream, ("a", "b", "c"), first)
        assert found.asked == asked
        assert found.seqs == {"a": 1, "b": 2}


async def test_many_take_turns() -> None:
    nodes = tuple(f"n{number}" for number in range(AT_ONCE + 5))
    found = await last_heartbeats(cast("Any", Stream()), nodes, AT_ONCE)
    assert found.asked == (*nodes[AT_ONCE:], *nodes[: AT_ONCE - 5])
    assert found.seqs == {}
