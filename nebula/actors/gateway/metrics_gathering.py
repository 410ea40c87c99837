"""Gathers the metrics of routers, nodes and engines over NATS, within bounds of time and size."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.engine_metrics import LARGEST, of_engines
from nebula.events import subjects
from nebula.events.metrics_messages import MetricsAsked, MetricsTold, Wanted
from nebula.events.reading import decoded
from nebula.events.state import State
from nebula.metrics.exposition import exposition
from nebula.metrics.merging import Merged, unpack
from nebula.metrics.metric import CLUSTER, ActorKind
from nebula.metrics.sheet import Sheet
from nebula.metrics.table import rows

if TYPE_CHECKING:
    from nebula.actors.gateway.actor import Gateway

ANSWER = 3.0
"""Seconds that an actor gets to tell its metrics: it asks NATS and engines for 2 s at most."""

IN_ALL = 8.0
"""Seconds for all of them: Prometheus waits for 10 s unless told otherwise."""

LISTENING = 1.0
"""Seconds in which gateways tell where they are: how many there are is not known."""

AT_ONCE = 64
"""Actors that are asked at a time."""

GATEWAYS = 1000
"""Gateways that are listed, at most."""

_Asked: TypeAlias = tuple[ActorKind, str]


class Target(Struct, frozen=True):
    """Where an actor's metrics can be scraped; `name`: of a router or a node."""

    kind: ActorKind
    name: str
    address: str


class MetricsGathering:
    """Asks other actors for a gateway. `routers_alive` returns the routers that it hears."""

    def __init__(self, gateway: "Gateway", routers_alive: Callable[[], tuple[str, ...]]) -> None:
        self._gateway = gateway
        self._routers_alive = routers_alive
        self._scraping = asyncio.Lock()

    async def cluster(self, node: str = "") -> bytes:
        """Return the metrics of all routers and nodes, or of one node."""
        async with self._scraping:
            asked = self._nodes(node) if node else [*self._routers(), *self._nodes()]
            told = await self._ask(asked, "own")
            return await asyncio.to_thread(_of_cluster, told)

    async def engines(self, node: str = "") -> bytes:
        """Return the metrics of all engines, or of those on one node."""
        async with self._scraping:
            told = await self._ask(self._nodes(node), "engines")
            state = self._gateway.projection.state
            return await asyncio.to_thread(_of_engines, told, state, node)

    async def targets(self) -> list[Target]:
        """Return where the metrics of all actors can be scraped, of those that have a port."""
        others, gateways = await asyncio.gather(
            self._ask([*self._routers(), *self._nodes()], "address"), self._find_gateways()
        )
        found = [Target("gateway", "", address) for address in gateways]
        found += [
            Target(kind, name, told.address)
            for (kind, name), told in others.items()
            if told is not None and told.address
        ]
        return sorted(found, key=lambda each: (each.kind, each.name, each.address))

    def _routers(self) -> list[_Asked]:
        return [("router", name) for name in sorted(self._routers_alive())]

    def _nodes(self, only: str = "") -> list[_Asked]:
        nodes = self._gateway.projection.state.nodes
        return [
            ("node", name)
            for name, node in sorted(nodes.items())
            if not node.away and only in ("", name)
        ]

    async def _ask(
        self, asked: Iterable[_Asked], wanted: Wanted
    ) -> dict[_Asked, MetricsTold | None]:
        """Ask actors, and return what they told in time."""
        found: dict[_Asked, MetricsTold | None] = dict.fromkeys(asked)
        turn = asyncio.Semaphore(AT_ONCE)
        question = msgspec.json.encode(MetricsAsked(wanted))

        async def ask(each: _Asked) -> None:
            kind, name = each
            of = subjects.router_metrics if kind == "router" else subjects.node_metrics
            async with turn:
                with contextlib.suppress(NatsError, TimeoutError, OSError):
                    client = self._gateway.connection.client
                    answer = await client.request(of(name), question, timeout=ANSWER)
                    found[each] = decoded(answer.data, MetricsTold)

        await _within(IN_ALL, [ask(each) for each in found])
        return found

    async def _find_gateways(self) -> list[str]:
        """Return the addresses of the gateways that answer."""
        client = self._gateway.connection.client
        found: set[str] = set()

        async def on_answer(message: Msg) -> None:
            told = decoded(message.data, MetricsTold)
            if told is not None and told.address and len(found) < GATEWAYS:
                found.add(told.address)

        inbox = client.new_inbox()
        try:
            listening = await client.subscribe(inbox, cb=on_answer)
            question = msgspec.json.encode(MetricsAsked("address"))
            await client.publish(subjects.gateway_metrics(), question, reply=inbox)
            await asyncio.sleep(LISTENING)
            await listening.unsubscribe()
        except (NatsError, OSError):
            pass
        return sorted(found)


async def _within(seconds: float, work: list[Awaitable[None]]) -> None:
    """Do work for so many seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*work)


def _own_families(kind: ActorKind) -> Callable[[str], bool]:
    """Return whether an actor of this kind may tell a family."""
    names = {row.name for row in rows(kind)}
    return lambda name: name in names or name.startswith("process_")


def _of_cluster(told: dict[_Asked, MetricsTold | None]) -> bytes:
    sheet, merged = Sheet("gateway", {}, CLUSTER), Merged(LARGEST)
    for (kind, name), each in told.items():
        text = unpack(each.text) if each is not None else None
        there = text is not None and merged.add(text, {kind: name}, _own_families(kind))
        sheet.add("nebula_actor_up", int(there), kind, name)
    return exposition(sheet.families()).body + merged.text().encode()


def _of_engines(told: dict[_Asked, MetricsTold | None], state: State, node: str) -> bytes:
    texts = {
        (name, engine.replica): engine.text
        for (_, name), each in told.items()
        if each is not None
        for engine in each.engines
    }
    ready = (
        replica
        for _, replica in sorted(state.replicas.items())
        if replica.phase == "ready" and node in ("", replica.node)
    )
    return of_engines(
        "gateway", ((each, unpack(texts.get((each.node, each.id), b""))) for each in ready)
    )
