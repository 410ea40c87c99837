"""A stream that real vLLM begins and another engine ends is one trace, in which vLLM takes part."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import DEMO
from tests.e2e.demo_cluster import CHAT, COLD_START, DemoCluster, metrics_of
from tests.integration.collector import Collector, Span

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1200)]

MODEL = "traced"
TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CARRIED = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "a=b"}
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write the numbers from 1 to 100."}],
    "temperature": 0,
    "max_tokens": 300,
    "stream": True,
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[DemoCluster]:
    """Two small replicas of the chat model, with traces."""
    cluster = DemoCluster(DEMO, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up("--otlp-traces-endpoint", collector.url, demo=False)
        request = {
            "id": MODEL,
            "source": str(DEMO / CHAT),
            "replicas": 2,
            "memory": "2GiB",
            "options": {"max-model-len": 1024, "enforce-eager": True},
        }
        answer = cluster.http.post("/admin/models", json=request)
        assert answer.status_code == 202, answer.text
        cluster.until(lambda: len(cluster.engine_pids()) == 2, "both serve", COLD_START)
        yield cluster
    finally:
        cluster.end()


def streamed(cluster: DemoCluster, chunks: list[dict[str, Any]], began: threading.Event) -> None:
    with cluster.http.stream("POST", "/v1/chat/completions", json=BODY, headers=CARRIED) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
            if len(chunks) > 5:
                began.set()


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_continued_stream_is_one_trace_in_which_vllm_takes_part(
    traced: DemoCluster, collector: Collector
) -> None:
    chunks: list[dict[str, Any]] = []
    began = threading.Event()
    asking = threading.Thread(target=streamed, args=(traced, chunks, began))
    asking.start()
    assert began.wait(120)
    pids = traced.engine_pids()
    first = busiest(traced, pids)
    psutil.Process(pids[first]).kill()
    asking.join(180)
    assert chunks[-1]["choices"][0]["finish_reason"]
    names = ["attempt 1", "attempt 2", f"chat {MODEL}", "llm_request"]

    def whole() -> bool:
        return sorted({s.name for s in collector.of(TRACE)} - {f"route {MODEL}"}) == names

    traced.until(whole, "the trace is whole")
    spans = collector.of(TRACE)
    print(*spans, sep="\n")
    root, engine = named(spans, f"chat {MODEL}"), named(spans, "llm_request")
    one, two = named(spans, "attempt 1"), named(spans, "attempt 2")
    assert root.parent == CLIENT
    assert (one.parent, two.parent) == (root.id, root.id)
    assert one.failed
    assert one.attributes["nebula.replica"] == first
    assert two.attributes["nebula.continues"] == "rest"
    assert (engine.service, engine.parent) == ("vllm", two.id)
    assert two.start <= engine.start <= engine.end <= root.end + 1_000_000_000
    assert engine.attributes["gen_ai.usage.completion_tokens"] > 0
    assert engine.attributes["gen_ai.latency.time_to_first_token"] > 0
    assert {span.state for span in spans} == {"a=b"}
    assert "numbers" not in repr(spans)


def busiest(cluster: DemoCluster, pids: dict[str, int]) -> str:
    """Return the replica that has the one request that runs."""
    found: list[str] = []

    def so() -> bool:
        found[:] = [
            name
            for name in pids
            if any(
                line.startswith("vllm:num_requests_running{") and not line.endswith(" 0.0")
                for line in metrics_of(cluster.replica(name)["engine"]).splitlines()
            )
        ]
        return len(found) == 1

    cluster.until(so, "one engine has the request")
    return found[0]


def test_what_vllm_does_at_its_start_is_in_the_trace_of_its_placement(
    traced: DemoCluster, collector: Collector
) -> None:
    def there() -> bool:
        return any(span.name == f"EngineReady {MODEL}-0" for span in collector.spans)

    traced.until(there, "an engine that is ready has a span")
    (assigned,) = [span for span in collector.spans if span.name == f"ModelAssigned {MODEL}"]
    spans = collector.of(assigned.trace)
    print(*(f"{span.service}: {span.name}" for span in spans), sep="\n")
    loading = [span for span in spans if span.service == "vllm"]
    assert {"Load model", "Load weights"} <= {span.name for span in loading}
    assert all(span.start >= assigned.start for span in loading)
