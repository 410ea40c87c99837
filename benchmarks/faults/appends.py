"""Changes asked for beside the requests: whether each one that was acknowledged is kept."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import httpx

from nebula.events.intents import AliasRequested
from nebula.store.connection import Connection
from nebula.store.log import Log

EVERY = 1.0  # seconds between two changes at one gateway
PATIENCE = 30.0
_TARGET = "nothing-answers-to-this"


class Append(NamedTuple):
    """One change: the mark that finds it in the log, and its sequence, or 0 and why it failed."""

    mark: str
    gateway: int
    seq: int
    reason: str
    seconds: float


class Appender:
    """Ask every gateway for a change once a second, and note what each answer promised."""

    def __init__(self, gateways: Sequence[str]) -> None:
        self._gateways = gateways
        self.made: list[Append] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask as long as the context lasts."""
        stopping = asyncio.Event()
        tasks = [
            asyncio.create_task(self._at(number, url, stopping))
            for number, url in enumerate(self._gateways)
        ]
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*tasks)

    async def _at(self, number: int, url: str, stopping: asyncio.Event) -> None:
        count = 0
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            while not stopping.is_set():
                mark = f"mark-{number}-{count}-{time.time_ns()}"
                count += 1
                began = time.perf_counter()
                seq, reason = await _change(client, url, mark)
                seconds = time.perf_counter() - began
                self.made.append(Append(mark, number, seq, reason, seconds))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await stopping.wait()


async def _change(client: httpx.AsyncClient, url: str, mark: str) -> tuple[int, str]:
    wish = {"targets": [{"model": f"{_TARGET}/{mark}"}]}
    try:
        answer = await client.put(f"{url}/admin/aliases/bench-marks", json=wish)
    except httpx.HTTPError as error:
        return 0, type(error).__name__
    if answer.status_code != 202:
        return 0, f"{answer.status_code}: {answer.text[:200]}"
    return int(answer.json()["seq"]), ""


class Kept(NamedTuple):
    """Of acknowledged changes, how many there were and which are lost; of failed ones, why."""

    acknowledged: int
    lost: list[str]
    failed: dict[str, int]
    longest: float


async def kept(url: str, appends: Sequence[Append]) -> Kept:
    """Look for every acknowledged change in the log at this NATS URL. Raise Unavailable."""
    connection = await Connection(url, "benchmark").open(patience=20)
    try:
        records = await Log(connection).read()
    finally:
        await connection.close()
    found: dict[str, int] = {}
    for record in records:
        if isinstance(record.content, AliasRequested):
            for target in record.content.targets:
                found[target.model.rpartition("/")[2]] = record.seq
    acknowledged = [append for append in appends if append.seq]
    lost = [append.mark for append in acknowledged if found.get(append.mark) != append.seq]
    failed: dict[str, int] = {}
    for append in appends:
        if not append.seq:
            recorded = " (it is in the log)" if append.mark in found else ""
            failed[append.reason + recorded] = failed.get(append.reason + recorded, 0) + 1
    longest = max((append.seconds for append in appends), default=0.0)
    return Kept(len(acknowledged), lost, failed, longest)


def told(result: Kept) -> str:
    """Write what became of the changes."""
    line = (
        f"changes: {result.acknowledged} acknowledged, {len(result.lost)} of them lost; "
        f"the slowest answer took {result.longest:.1f} s"
    )
    failed = [f"- {count} x change failed: {reason}" for reason, count in result.failed.items()]
    return "\n".join([line, *failed])
