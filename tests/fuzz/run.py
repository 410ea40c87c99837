"""One run of all fuzzers against the gateway of a cluster, and its report."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import psutil
from msgspec import Struct

from nebula.http.document.entries import MODELS
from tests.fuzz import bodies, schema, wires
from tests.fuzz.bodies import Bad
from tests.fuzz.verdicts import Verdicts, speaks_anthropic
from tests.fuzz.watching import Watch
from tests.fuzz.wires import GIB
from tests.integration.cluster import Cluster

UNASKED = ("/admin/events",)
"""Streams and long answers are of no use here."""


class Extent(Struct, frozen=True):
    """How much is tried: requests of each operation, of each mode; bytes of a bomb; slow lines."""

    examples: int
    bomb: int = GIB
    slow: int = 0
    seed: int = 0
    every: int = 1
    """Of the paths that take JSON, one of this many is tried with bodies that are bad."""


QUICK = Extent(examples=2, bomb=GIB // 8, every=8)


class Outcome(Struct):
    """What came of it."""

    verdicts: Verdicts
    watch: Watch

    def report(self) -> str:
        """Return it as a table."""
        found, seen = self.verdicts, self.watch
        mib = 1024 * 1024
        rows = [
            ("requests tried", sum(found.tried.values())),
            *((f"  {kind}", count) for kind, count in sorted(found.tried.items())),
            *((f"answers {status}", count) for status, count in sorted(found.statuses.items())),
            ("memory of the gateway before, MiB", seen.before // mib),
            ("  at the most", seen.most // mib),
            ("  after", seen.after // mib),
            ("answers of another client meanwhile", len(seen.took)),
            ("  wrong", len(seen.wrong)),
            ("  p50, ms", round(seen.quantile(0.5) * 1000)),
            ("  p99, ms", round(seen.quantile(0.99) * 1000)),
            ("faults", len(found.faults)),
        ]
        lines = [f"{name:<40}{value:>10}" for name, value in rows]
        told = [f"FAULT {asked}\n      {what}" for asked, what in sorted(found.faults.items())]
        return "\n".join([*lines, *told, *(f"WRONG {each}" for each in seen.wrong[:9])])


async def prepare(cluster: Cluster) -> None:
    """Load the models of the examples."""
    await cluster.ready()
    for name, task in MODELS.items():
        hears = {"simulate-tasks": "transcription"} if task == "transcription" else {}
        await cluster.load(name, task=task, memory="64MiB", options=hears)


async def clients(cluster: Cluster, extent: Extent) -> Outcome:
    """Fuzz all paths but the administration, while another client is served."""
    outcome = Outcome(Verdicts(), Watch())
    watching = [
        asyncio.create_task(outcome.watch.memory(psutil.Process(cluster.pid("gateway")))),
        asyncio.create_task(outcome.watch.other(cluster.port)),
    ]
    try:
        async with cluster.http() as http:
            document = schema.with_models((await http.get("/openapi.json")).json())
            await _bodies(http, document, extent, outcome.verdicts)
        await _wires(cluster.port, extent, outcome.verdicts)
        chosen = [each for each in schema.operations(document) if not _administers(each.path)]
        await _schema(chosen, cluster, extent, outcome.verdicts)
    finally:
        for each in watching:
            each.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
        outcome.watch.wrong += [repr(each) for each in ended if isinstance(each, Exception)]
    return outcome


async def administration(cluster: Cluster, extent: Extent) -> Outcome:
    """Fuzz the administration of a cluster, which should have no node: models are loaded."""
    outcome = Outcome(Verdicts(), Watch())
    pid = psutil.Process(cluster.pid("gateway"))
    watching = asyncio.create_task(outcome.watch.memory(pid))
    async with cluster.http() as http:
        document = (await http.get("/openapi.json")).json()
        for path, method, example in _examples(document):
            if _administers(path):
                for bad in (*bodies.of_json(example), *bodies.of_types(example)):
                    await _send(http, method, path, bad, outcome.verdicts)
    chosen = [each for each in schema.operations(document) if _administers(each.path)]
    await _schema(chosen, cluster, extent, outcome.verdicts)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return outcome


def _administers(path: str) -> bool:
    return path.startswith("/admin/")


async def _schema(
    chosen: Iterable[Any], cluster: Cluster, extent: Extent, verdicts: Verdicts
) -> None:
    url = f"http://127.0.0.1:{cluster.port}"
    for each in chosen:
        if each.path not in UNASKED:
            await asyncio.to_thread(schema.ask, each, url, verdicts, extent.examples, extent.seed)


def _examples(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            for each in operation["parameters"]:
                if each.get("in") == "path":
                    path = path.replace(f"{{{each['name']}}}", each["example"])
            if "application/json" in content:
                yield path, method.upper(), content["application/json"]["example"]


async def _bodies(
    http: httpx.AsyncClient, document: Any, extent: Extent, verdicts: Verdicts
) -> None:
    examples = [each for each in _examples(document) if not _administers(each[0])]
    for number, (path, method, example) in enumerate(examples):
        if number % extent.every:
            continue
        codings = bodies.of_codings(example, extent.bomb)
        for bad in (*bodies.of_json(example), *bodies.of_types(example), *codings):
            await _send(http, method, path, bad, verdicts)
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content:
            fields = {"purpose": "user_data"} if path == "/v1/files" else {"model": "ears"}
            for bad in bodies.of_forms(fields):
                await _send(http, "POST", path, bad, verdicts)


async def _send(
    http: httpx.AsyncClient, method: str, path: str, bad: Bad, verdicts: Verdicts
) -> None:
    fields = {"content-type": "application/json", **bad.fields}
    answer = await http.request(method, path, content=bad.body, headers=fields)
    verdicts.take(
        "bodies",
        f"{method} {path}: {bad.name}",
        answer.status_code,
        answer.content,
        anthropic=speaks_anthropic(path),
        refused=bad.refused,
    )


async def _wires(port: int, extent: Extent, verdicts: Verdicts) -> None:
    for path in ("/v1/chat/completions", "/v1/messages"):
        anthropic = speaks_anthropic(path)
        await wires.asked(port, path, verdicts, anthropic)
        if extent.slow:
            await wires.slow(port, path, verdicts, anthropic, extent.slow)
