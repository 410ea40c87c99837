"""One trace for each request: from its client through the gateway, queue, router and engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from nebula.events.vocabulary import EngineReady
from tests.integration.asking import CHAT, Heard, chat, said, stream
from tests.integration.cluster import Cluster
from tests.integration.collector import Collector, Span
from tests.integration.test_metrics import scrape, value
from tests.integration.test_realtime import (
    COMMIT,
    FINAL,
    HEARS,
    UPDATE,
    append,
    hears,
    says,
    session,
)

pytestmark = pytest.mark.anyio

CLIENT = "00f067aa0ba902b7"
SLOW = {"simulate-token": 0.05, "simulate-tokens": 40}


def trace_of(number: int) -> str:
    return f"4bf92f3577b34da6a3ce929d0e0e{number:04x}"


def carried(number: int, *, sampled: bool = True, **more: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace_of(number)}-{CLIENT}-{int(sampled):02d}", **more}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Cluster]:
    """A cluster with traces that all tests of this module share."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.variables["OTEL_BSP_SCHEDULE_DELAY"] = "50"
    try:
        cluster.up("--otlp-traces-endpoint", collector.url)
        yield cluster
    finally:
        cluster.close()
    assert not cluster.violations()


async def whole(cluster: Cluster, collector: Collector, number: int, *names: str) -> list[Span]:
    """Wait until a trace has spans with these names, all that it will have; return them.

    A request may also have queued for a moment, where its router had just heard of the replica.
    """

    async def so() -> bool:
        came = [span.name for span in collector.of(trace_of(number))]
        return sorted(names) == sorted(
            name for name in came if name in names or not name.startswith("queue ")
        )

    found: list[Span] = []
    try:
        await cluster.poll(so, f"trace {number} has {names}", patience=20)
    finally:
        found = collector.of(trace_of(number))
        print(*found, sep="\n")
    return found


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_a_request_is_one_tree_from_its_client_to_its_engine(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("chat", memory="64MiB")
    asked = chat("chat", "a secret word", temperature=0.5, max_tokens=4)
    async with traced.http() as http:
        answer = await http.post(CHAT, json=asked, headers=carried(1, tracestate="a=b"))
    assert said(answer)
    spans = await whole(traced, collector, 1, "chat chat", "attempt 1", "route chat", "llm_request")
    root, attempt = named(spans, "chat chat"), named(spans, "attempt 1")
    route, engine = named(spans, "route chat"), named(spans, "llm_request")
    assert (root.service, root.parent, root.kind) == ("nebula-gateway", CLIENT, "server")
    assert (attempt.service, attempt.parent) == ("nebula-gateway", root.id)
    assert (route.service, route.parent) == ("nebula-router", attempt.id)
    assert (engine.service, engine.parent) == ("vllm", attempt.id)
    assert {span.state for span in spans} == {"a=b"}
    assert not any(span.failed for span in spans)
    usage = answer.json()["usage"]
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "chat",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.response.id": answer.json()["id"],
        "gen_ai.response.model": "chat",
        "gen_ai.response.finish_reasons": [answer.json()["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "nebula.request.id": answer.headers["x-request-id"],
        "nebula.model": "chat",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": CHAT,
    }
    assert root.attributes.items() >= wanted.items()
    assert root.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert attempt.attributes["nebula.replica"] == route.attributes["nebula.replica"] == "chat-0"
    assert root.start <= attempt.start <= route.end <= engine.end <= root.end
    assert "secret word" not in repr(collector.spans)


async def test_a_request_that_goes_directly_is_the_same_tree(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("near", memory="64MiB")
    number = 100
    async with traced.http() as http:

        async def directly() -> bool:
            nonlocal number
            number += 1
            assert said(await http.post(CHAT, json=chat("near"), headers=carried(number)))
            sent = value(
                await scrape(http), "nebula_requests_sent_total", model="near", way="direct"
            )
            return sent > 0

        await traced.poll(directly, "a request goes directly")
    names = ("chat near", "attempt 1", "route near", "llm_request")
    spans = await whole(traced, collector, number, *names)
    attempt, route = named(spans, "attempt 1"), named(spans, "route near")
    assert (route.service, route.parent) == ("nebula-gateway", attempt.id)
    assert named(spans, "llm_request").parent == attempt.id
    told = {"nebula.replica": "near-0", "nebula.leased": True, "nebula.queue.duration": 0.0}
    assert route.attributes.items() >= told.items()
    assert route.attributes["nebula.router"].startswith("router-")


async def test_a_request_that_queues_has_its_queue_in_the_tree(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    options = {"simulate-first-token": 0.5}
    await traced.load("one", memory="64MiB", options=options, max_in_flight=1)
    async with traced.http() as http:
        asked = [
            asyncio.create_task(http.post(CHAT, json=chat("one"), headers=carried(number)))
            for number in (2, 3)
        ]
        for answer in await asyncio.gather(*asked):
            assert said(answer)
    names = ("chat one", "attempt 1", "route one", "llm_request")
    both = [span for number in (2, 3) for span in collector.of(trace_of(number))]

    async def queued() -> bool:
        both[:] = [span for number in (2, 3) for span in collector.of(trace_of(number))]
        return len(both) == 2 * len(names) + 1

    await traced.poll(queued, "both are there, one of them has queued", patience=20)
    queue = named(both, "queue one")
    route = next(span for span in both if span.id == queue.parent)
    assert route.name == "route one"
    assert route.attributes["nebula.queue.duration"] > 0
    assert (queue.start, queue.end) == (route.start, route.end)
    other = next(span for span in both if span.name == "llm_request" and span.trace != queue.trace)
    own = next(span for span in both if span.name == "llm_request" and span.trace == queue.trace)
    assert other.start < queue.end <= own.end


async def test_a_request_that_waits_for_a_model_names_the_event_that_ended_its_wait(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("late", memory="64MiB", options={"simulate-start": 1}, stands="")
    async with traced.http() as http:
        assert said(await http.post(CHAT, json=chat("late"), headers=carried(10)))
    names = ("chat late", "attempt 1", "route late", "queue late", "llm_request")
    queue = named(await whole(traced, collector, 10, *names), "queue late")
    (ready,) = await traced.records(EngineReady, identity="late-0")
    assert queue.attributes["nebula.cause.seq"] == ready.seq

    async def there() -> bool:
        return any((span.trace, span.id) in queue.links for span in collector.spans)

    await traced.poll(there, "the event has a span", patience=20)
    (event,) = [span for span in collector.spans if (span.trace, span.id) in queue.links]
    assert event.name == "EngineReady late-0"
    assert queue.start < event.end


async def test_a_mirrored_request_is_in_the_trace_of_what_it_is_a_copy_of(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    for model in ("chat", "mirror"):
        await traced.load(model, memory="64MiB")
    async with traced.http() as http:
        alias = {"targets": [{"model": "chat"}], "mirror": "mirror"}
        assert (await http.put("/admin/aliases/watched", json=alias)).status_code == 202

        async def known() -> bool:
            return (await http.get("/v1/models/watched")).status_code == 200

        await traced.poll(known, "the gateway knows the alias")
        assert said(await http.post(CHAT, json=chat("watched"), headers=carried(11)))
    names = (
        "chat watched",
        "attempt 1",
        "route chat",
        "llm_request",
        "route mirror",
        "llm_request",
    )
    spans = await whole(traced, collector, 11, *names)
    root, route = named(spans, "chat watched"), named(spans, "route mirror")
    assert route.parent == root.id, "it is no attempt at the request"
    assert route.attributes["nebula.replica"] == "mirror-0"
    engines = {span.parent for span in spans if span.name == "llm_request"}
    assert engines == {named(spans, "attempt 1").id, root.id}
    assert root.attributes["nebula.model"] == "chat"


async def test_a_realtime_session_is_one_trace_from_its_begin_to_its_end(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("ears", task="transcription", memory="64MiB", options=HEARS)
    async with session(traced, additional_headers=carried(12)) as socket:
        assert (await hears(socket))["type"] == "session.created"
        await says(socket, {**UPDATE, "model": "ears"}, COMMIT, append(b"a secret"), FINAL)
        assert (await hears(socket))["type"] == "transcription.delta"
        assert (await hears(socket))["type"] == "transcription.done"
    spans = await whole(traced, collector, 12, "realtime ears", "attempt 1", "route ears")
    root, attempt = named(spans, "realtime ears"), named(spans, "attempt 1")
    assert (root.parent, attempt.parent) == (CLIENT, root.id)
    assert named(spans, "route ears").parent == attempt.id
    assert attempt.attributes["nebula.replica"] == "ears-0"
    assert root.start <= attempt.start <= attempt.end <= root.end
    assert not root.failed
    assert "secret" not in repr(spans)


async def test_a_continued_stream_is_one_trace_with_both_attempts(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("two", replicas=2, memory="64MiB", options=SLOW)
    heard = Heard()
    async with traced.http() as http:
        http.headers.update(carried(4))
        streaming = asyncio.create_task(stream(http, chat("two"), heard))

        async def begun() -> bool:
            return len(heard.chunks) > 3

        await traced.poll(begun, "the stream has begun")
        (busy,) = [n for n in range(2) if (await traced.engine_says(f"two-{n}"))["running"]]
        os.kill((await traced.engine(f"two-{busy}")).pid, signal.SIGKILL)
        await streaming
    assert heard.whole
    names = ["chat two", "attempt 1", "route two", "attempt 2", "route two", "llm_request"]
    spans = await whole(traced, collector, 4, *names)
    root = named(spans, "chat two")
    first, second = named(spans, "attempt 1"), named(spans, "attempt 2")
    assert (first.parent, second.parent) == (root.id, root.id)
    assert first.failed
    assert first.attributes["error.type"]
    assert first.attributes["nebula.replica"] == f"two-{busy}"
    assert not second.failed
    assert second.attributes["nebula.replica"] == f"two-{1 - busy}"
    assert second.attributes["nebula.continues"] == "rest"
    assert first.end <= second.start
    assert not root.failed
    assert root.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    routes = [span.parent for span in spans if span.name == "route two"]
    assert routes == [first.id, second.id]
    assert named(spans, "llm_request").parent == second.id  # a killed engine sends no span


async def test_what_the_cluster_does_is_a_trace_from_its_cause_to_its_end(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("placed", memory="64MiB", options={"simulate-start": 0.5})
    kinds = {"ModelLoadRequested": "gateway", "ModelAssigned": "router"}
    kinds |= {"EngineStarted": "node", "EngineReady": "node"}
    found: dict[str, Span] = {}

    async def there() -> bool:
        found.clear()
        for span in collector.spans:
            kind, _, what = span.name.partition(" ")
            if what in ("placed", "placed-0"):
                found[kind] = span
        return found.keys() >= kinds.keys()

    await traced.poll(there, "each step has a span", patience=20)
    records = {record.seq: record for record in await traced.records()}
    for kind, actor in kinds.items():
        span = found[kind]
        record = records[span.attributes["nebula.event.seq"]]
        assert record.type == kind
        assert span.attributes.get("nebula.cause.seq") == record.cause
        assert span.service == f"nebula-{actor}"
    assert len({found[kind].trace for kind in kinds}) == 1
    by_seq = {span.attributes["nebula.event.seq"]: span for span in found.values()}
    for span in by_seq.values():
        cause = span.attributes.get("nebula.cause.seq")
        assert span.parent == ("" if cause is None else by_seq[cause].id)
    ready = found["EngineReady"]
    assert ready.end - ready.start >= 500_000_000


@pytest.mark.parametrize(
    "parent",
    ["nonsense", f"00-{'0' * 32}-{CLIENT}-01", f"ff-{trace_of(5)}-{CLIENT}-01"],
)
async def test_a_trace_begins_anew_where_the_client_s_is_not_valid(
    traced: Cluster, collector: Collector, parent: str
) -> None:
    await traced.ready()
    await traced.load("chat", memory="64MiB")
    headers = {"traceparent": parent, "tracestate": "a=b"}
    async with traced.http() as http:
        answer = await http.post(CHAT, json=chat("chat"), headers=headers)
    identity = answer.headers["x-request-id"]
    own: list[Span] = []

    async def there() -> bool:
        roots = [s for s in collector.spans if s.attributes.get("nebula.request.id") == identity]
        own[:] = collector.of(roots[0].trace) if roots else []
        return {span.name for span in own} >= {"chat chat", "llm_request"}

    await traced.poll(there, "the request has a trace", patience=20)
    root = named(own, "chat chat")
    assert not root.parent
    assert not root.state
    assert root.trace not in parent


async def test_nothing_is_recorded_where_the_client_says_so(
    traced: Cluster, collector: Collector
) -> None:
    await traced.ready()
    await traced.load("chat", memory="64MiB")
    async with traced.http() as http:
        for headers in (carried(6, sampled=False), carried(7)):
            assert said(await http.post(CHAT, json=chat("chat"), headers=headers))
    await whole(traced, collector, 7, "chat chat", "attempt 1", "route chat", "llm_request")
    assert collector.of(trace_of(6)) == []


async def test_what_is_refused_has_its_span_and_why(traced: Cluster, collector: Collector) -> None:
    await traced.ready()
    async with traced.http() as http:
        answer = await http.post(CHAT, json=chat("nobody"), headers=carried(8))
    assert answer.status_code == 404
    (span,) = await whole(traced, collector, 8, "chat nobody")
    assert span.attributes["http.response.status_code"] == 404
    assert span.attributes["error.type"] == "404"


async def test_what_is_said_is_recorded_only_where_it_is_asked_for(
    own_cluster: Cluster, collector: Collector
) -> None:
    cluster = own_cluster
    cluster.variables |= {
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    cluster.up("--trace-prompts")
    await cluster.ready()
    await cluster.load("chat", memory="64MiB", options={"simulate-tokens": 3})
    async with cluster.http() as http:
        http.headers.update(carried(9))
        heard = await stream(http, chat("chat", "say it"), Heard())
    assert heard.whole
    spans = await whole(
        cluster, collector, 9, "chat chat", "attempt 1", "route chat", "llm_request"
    )
    root = named(spans, "chat chat")
    assert "say it" in root.attributes["gen_ai.input.messages"]
    assert heard.text in root.attributes["gen_ai.output.messages"]


async def test_a_collector_that_is_gone_or_hangs_costs_no_request(own_cluster: Cluster) -> None:
    cluster = own_cluster
    hangs = await asyncio.start_server(lambda *_: asyncio.sleep(3600), "127.0.0.1", 0)
    port = hangs.sockets[0].getsockname()[1]
    cluster.variables |= {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BSP_MAX_QUEUE_SIZE": "32"}
    cluster.variables |= {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    cluster.up("--otlp-traces-endpoint", f"http://127.0.0.1:{port}")
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with cluster.http() as http:
        for _ in range(100):
            assert said(await http.post(CHAT, json=chat("chat", max_tokens=1)))
    assert cluster.stop("up") == 0
    hangs.close()
