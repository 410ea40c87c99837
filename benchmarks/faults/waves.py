"""A wave: many requests at once, and what is killed or disturbed while they are answered."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from benchmarks.data_plane.streams import run

from .appends import Append, Appender
from .asking import Asked, Clients, How, Outcome

PATH = "/v1/chat/completions"
_LOOK = 0.05  # seconds between two looks at how far the answers are


class Disturbed(NamedTuple):
    """What was killed or disturbed, the gateways that went with it, and what ends it again."""

    what: str
    gateways: frozenset[int] = frozenset()
    undo: Callable[[], object] | None = None


class Place(Protocol):
    """The cluster under test: the URLs of its gateways, and a way to disturb it."""

    gateways: Sequence[str]

    def disturb(self, what: str, number: int) -> Disturbed:
        """Kill or disturb one part of it. Raise Failed."""
        ...


class Step(NamedTuple):
    """Disturb that once this part of all events has come; undo it `lasts` seconds later.

    `number` is which one of several.
    """

    what: str
    number: int
    at: float
    lasts: float = 0.0


class Killed(NamedTuple):
    """What was disturbed, from when until when, and how many requests were being answered then."""

    what: str
    at: float
    running: int
    until: float = 0.0
    gateways: frozenset[int] = frozenset()


class Wave(NamedTuple):
    """`spread`: seconds over which the requests arrive; `events`: those of all streams together.

    `silence`: seconds after which a client leaves a gateway that has stopped to answer.
    """

    name: str
    tokens: int
    steps: Sequence[Step]
    spread: float
    events: int = 0
    silence: float = 0.0


class Done(NamedTuple):
    """A wave that is over, what became of each of its requests, and of each change to the log."""

    wave: Wave
    outcomes: list[Outcome]
    killed: list[Killed]
    appends: Sequence[Append] = ()


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


def ride(wave: Wave, asked: Sequence[Asked], place: Place) -> Done:
    """Send all requests of a wave, take its steps, and wait for the last answer."""
    return run(_ride(wave, asked, place))


async def _ride(wave: Wave, asked: Sequence[Asked], place: Place) -> Done:
    clients = Clients(place.gateways, PATH, wave.silence)
    appender = Appender(place.gateways)
    outcomes = [Outcome(item) for item in asked]

    async def arrive(outcome: Outcome, delay: float) -> None:
        await asyncio.sleep(delay)
        await clients.make(outcome)

    # In an order that mixes kinds and gateways: requests of one kind do not all arrive early.
    step = next(step for step in (7, 11, 13, 17, 1) if len(asked) % step)
    order = [number * step % len(asked) for number in range(len(asked))]
    delays = {number: place_ * wave.spread / len(asked) for place_, number in enumerate(order)}
    async with appender.running(), asyncio.TaskGroup() as group:
        for outcome in outcomes:
            group.create_task(arrive(outcome, delays[outcome.asked.number]))
        killed = await _disturb(wave, outcomes, place)
    return Done(wave, outcomes, killed, appender.made)


async def _disturb(wave: Wave, outcomes: Sequence[Outcome], place: Place) -> list[Killed]:
    streams = [outcome for outcome in outcomes if outcome.asked.stream]
    endings: list[asyncio.Task[Killed]] = []
    for step in wave.steps:
        while sum(outcome.progress for outcome in streams) < step.at * wave.events:
            if all(outcome.ended for outcome in outcomes):
                break
            await asyncio.sleep(_LOOK)
        running = sum(1 for outcome in outcomes if outcome.began and not outcome.ended)
        began = time.perf_counter()
        done = await asyncio.to_thread(place.disturb, step.what, step.number)
        endings.append(asyncio.create_task(_ended(done, began, running, step.lasts)))
    return list(await asyncio.gather(*endings))


async def _ended(done: Disturbed, began: float, running: int, lasts: float) -> Killed:
    at = time.perf_counter()
    if done.undo is None:
        return Killed(done.what, at, running, at, done.gateways)
    await asyncio.sleep(lasts)
    await asyncio.to_thread(done.undo)
    return Killed(done.what, began, running, time.perf_counter(), done.gateways)
