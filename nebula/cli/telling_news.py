"""Prints the events in `nebula up` that its operator needs to know."""

import asyncio
import contextlib
from contextlib import aclosing

from rich.console import Console
from rich.markup import escape

from nebula.actors.actor import cancel
from nebula.actors.projection import Projection
from nebula.cli.cluster import joined
from nebula.events.evolve import evolve
from nebula.history.news import EVERY, Ration, news
from nebula.store.connection import Unavailable
from nebula.store.tail import LogReplaced

AGAIN = 5.0
"""Seconds between two tries to reach NATS."""


async def tell(nats: str, console: Console) -> None:
    """Print a cluster's news from now on, for ever, also across losses of NATS."""
    ration = Ration()
    while True:
        with contextlib.suppress(Unavailable, LogReplaced):
            async with joined(nats) as projection:
                await _follow(projection, ration, console)
        await asyncio.sleep(AGAIN)


async def _follow(projection: Projection, ration: Ration, console: Console) -> None:
    state = projection.state
    resting = asyncio.create_task(_rest(ration, console))
    try:
        async with aclosing(projection.log.follow(state.seq)) as batches:
            async for batch in batches:
                for record in batch:
                    text = news(record, state)
                    state = evolve(state, record)
                    if text:
                        _print(ration.pass_on(text, _now()), console)
    finally:
        await cancel([resting])


async def _rest(ration: Ration, console: Console) -> None:
    while True:
        await asyncio.sleep(EVERY / 4)
        _print(ration.rest(_now()), console)


def _print(lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(escape(line), soft_wrap=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
