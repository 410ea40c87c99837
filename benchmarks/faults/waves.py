"""A wave: many requests at once, and what is killed while they are answered."""

import asyncio
import functools
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.cluster import Cluster
from benchmarks.data_plane.streams import run

from .asking import Asked, Clients, How, Outcome

PATH = "/v1/chat/completions"
_LOOK = 0.05  # seconds between two looks at how far the answers are


class Kill(NamedTuple):
    """Kill that once this part of all events has come; `number` says which of several."""

    what: str
    number: int
    at: float


class Killed(NamedTuple):
    """What was killed, when, and how many requests had an answer that was not whole then."""

    what: str
    at: float
    running: int


class Wave(NamedTuple):
    """`spread`: seconds over which the requests arrive; `events`: those of all streams together."""

    name: str
    tokens: int
    kills: Sequence[Kill]
    spread: float
    events: int = 0


class Done(NamedTuple):
    """A wave that is over, and what became of each of its requests."""

    wave: Wave
    outcomes: list[Outcome]
    killed: list[Killed]


# Of six requests four are streams, and four can be come back for; a plain one has no such way.
_KINDS: Sequence[tuple[bool, How]] = (
    (True, "resumable"),
    (True, "key"),
    (False, "key"),
    (True, "resumable"),
    (True, "plain"),
    (False, "plain"),
)


def requests(count: int, body: Callable[[int, bool], bytes]) -> list[Asked]:
    """Make the requests of a wave: of every kind as many at one gateway as at the other."""
    made = []
    for number in range(count):
        stream, how = _KINDS[number % len(_KINDS)]
        gateway = number // len(_KINDS) % 2
        made.append(Asked(number, body(number, stream), stream, how, gateway, uuid.uuid4().hex))
    return made


def ride(wave: Wave, asked: Sequence[Asked], cluster: Cluster, silence: float) -> Done:
    """Send all requests of a wave, kill what is to be killed, and wait for the last answer."""
    return run(_ride(wave, asked, cluster, silence))


async def _ride(wave: Wave, asked: Sequence[Asked], cluster: Cluster, silence: float) -> Done:
    clients = Clients(cluster.gateways, PATH, silence)
    outcomes = [Outcome(item) for item in asked]

    async def arrive(outcome: Outcome, delay: float) -> None:
        await asyncio.sleep(delay)
        await clients.make(outcome)

    # In an order that mixes kinds and gateways: requests of one kind do not all arrive early.
    step = next(step for step in (7, 11, 13, 17, 1) if len(asked) % step)
    order = [number * step % len(asked) for number in range(len(asked))]
    delays = {number: place * wave.spread / len(asked) for place, number in enumerate(order)}
    async with asyncio.TaskGroup() as group:
        for outcome in outcomes:
            group.create_task(arrive(outcome, delays[outcome.asked.number]))
        killed = await _kill(wave, outcomes, cluster)
    return Done(wave, outcomes, killed)


async def _kill(wave: Wave, outcomes: Sequence[Outcome], cluster: Cluster) -> list[Killed]:
    streams = [outcome for outcome in outcomes if outcome.asked.stream]
    killed = []
    for kill in wave.kills:
        while sum(outcome.progress for outcome in streams) < kill.at * wave.events:
            if all(outcome.ended for outcome in outcomes):
                break
            await asyncio.sleep(_LOOK)
        running = sum(1 for outcome in outcomes if outcome.began and not outcome.ended)
        name = await asyncio.to_thread(functools.partial(cluster.kill, kill.what, kill.number))
        killed.append(Killed(name, time.perf_counter(), running))
    return killed
