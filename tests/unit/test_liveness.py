"""An engine that nothing can probe owes no answer once its last request has ended."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from nebula.actors.engine import liveness
from nebula.actors.engine.exchange import EngineExchange, Receive, Scope, Send
from nebula.actors.engine.liveness import Liveness

pytestmark = pytest.mark.anyio


async def never(_: Scope, __: Receive, ___: Send) -> None:
    raise AssertionError("an engine that only transcribes was probed")


@pytest.mark.parametrize("ended", [True, False])
async def test_an_engine_that_only_transcribes_is_silent_while_it_has_a_request(
    ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = asyncio.get_running_loop().time()
    watched = Liveness(never)
    watched.knows("ears", ["transcription"], {})
    path = "/v1/audio/transcriptions"
    exchange = cast(
        "EngineExchange", SimpleNamespace(request=SimpleNamespace(path=path), began=now)
    )
    watched.came(exchange)
    if ended:  # with a 400, which its server answers without its core
        watched.left(exchange, now)
    silent = 0.0
    for tick in range(40):
        monkeypatch.setattr(liveness, "_now", lambda tick=tick: now + tick / 2)
        silent = watched.look()
    assert (silent == 0.0) is ended
    assert watched.tell([]).requests == (0 if ended else 1)
