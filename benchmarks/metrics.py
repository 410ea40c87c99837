"""What metrics cost: a request that is counted, and a scrape of a large cluster.

`python -m benchmarks.metrics` from the repository's root; needs nothing that runs. Counting is
measured beside the same counted by `prometheus_client`, in turns; writing the text beside the
library's own.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector
from rpds import HashTrieMap

from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.actors.gateway.request_counts import RequestCounts
from nebula.actors.router.figures import RouterFigures
from nebula.events.inference import Request
from nebula.events.intents import ModelLoadRequested
from nebula.events.state import EMPTY, Model, NameBinding, Node, State
from nebula.events.usage import UsageRecord
from nebula.events.values import Device
from nebula.metrics.exposition import plain
from nebula.metrics.metric import DURATION, FIRST_TOKEN, OUTPUT_TOKEN
from nebula.metrics.sheet import Sheet

PATH = "/v1/chat/completions"
USED = UsageRecord("r", 1, "key:ci", "chat", PATH, prompt=7, completion=11)


def ours() -> Callable[[], None]:
    """Return what counts a stream that has ended, as a gateway does."""
    request = _request()
    counts = RequestCounts()
    return lambda: counts.ended(request, (200, ""), USED, "lab")


def theirs() -> Callable[[], None]:
    """Return what counts the same with the library, its labels bound before."""
    registry = CollectorRegistry()
    names = ("model", "adapter", "path")
    values = ("chat", "", PATH)
    duration, first, each = (
        Histogram(name, name, names, registry=registry, buckets=buckets).labels(*values)
        for name, buckets in (("d", DURATION), ("f", FIRST_TOKEN), ("o", OUTPUT_TOKEN))
    )
    requests, prompt, cached, completion = (
        Counter(name, name, (*names, "tenant"), registry=registry).labels(*values, "lab")
        for name in ("requests", "prompt", "cached", "completion")
    )
    request = _request()

    def count() -> None:
        requests.inc()
        prompt.inc(USED.prompt)
        cached.inc(USED.cached)
        completion.inc(USED.completion)
        end, begin = request.heard_at, request.first_at
        duration.observe(end - request.began)
        first.observe(begin - request.began)
        each.observe((end - begin) / (USED.completion - 1))

    return count


def _request() -> InFlightRequest:
    asked = Request("r", "gw", "chat", PATH, b"{}")
    flight = InFlightRequest(
        request=asked,
        binding=NameBinding("chat"),
        answer=Answer(asked),
        idle=1.0,
        began=10.0,
        first_at=10.5,
        heard_at=12.5,
    )
    flight.answer.streaming = True
    return flight


def nanoseconds(work: Callable[[], None], number: int) -> float:
    """Return the nanoseconds that a call takes."""
    began = time.process_time_ns()
    for _ in range(number):
        work()
    return (time.process_time_ns() - began) / number


def large(models: int, nodes: int) -> State:
    """Return a cluster in which every model waits for a place."""
    device = (Device(0, "gpu", "GPU", 80 * 2**30),)
    spec = ModelLoadRequested(source="source", replicas=1)
    made = [
        Model(id=f"m{n}", name=f"m{n}", spec=spec, adapters={}, requested_seq=n)
        for n in range(models)
    ]
    found = [Node(id=f"n{n}", devices=device) for n in range(nodes)]
    return replace(
        EMPTY,
        models=HashTrieMap({each.id: each for each in made}),
        nodes=HashTrieMap({each.id: each for each in found}),
    )


class _Same(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    given = parser.parse_args()
    own, library = ours(), theirs()
    pairs = [(nanoseconds(own, 50_000), nanoseconds(library, 50_000)) for _ in range(given.rounds)]
    print("| what | Nebula | prometheus_client | ratio, median (min to max) |")
    print("| --- | --- | --- | --- |")
    _row("a stream that has ended is counted", pairs, "µs", 1e-3)
    figures = RouterFigures.__new__(RouterFigures)
    state, pairs = large(given.models, given.nodes), []
    for _ in range(given.rounds):
        sheet = Sheet("router", {"router": "r"})
        collecting = seconds(partial(figures.folded, sheet, state))
        families = list(sheet.families())
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Same(families))
        writing = seconds(partial(plain, families))
        pairs.append((writing, seconds(partial(generate_latest, registry))))
    _row(f"the text of {given.models} models", pairs, "ms", 1e3)
    print(f"\ncollecting them from the state: {collecting * 1e3:.0f} ms")


def _row(what: str, pairs: list[tuple[float, float]], unit: str, scale: float) -> None:
    own, library = (statistics.median(side) * scale for side in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"| {what} | {own:.2f} {unit} | {library:.2f} {unit} | {spread} |")


if __name__ == "__main__":
    main()
