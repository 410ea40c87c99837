"""A cluster emits every metric of the table, and none beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from nebula.cli.cluster import joined
from nebula.metrics.metric import ActorKind
from nebula.metrics.table import rows
from nebula.store.snapshots import Snapshots
from tests.integration.asking import CHAT, Heard, chat, stream
from tests.integration.cluster import PATIENCE, Cluster
from tests.integration.test_going_on import SLOW, begun, kill_engine
from tests.ports import free_port

pytestmark = pytest.mark.anyio

Samples = list[tuple[str, dict[str, str], float]]


def samples(text: str) -> Samples:
    """Return the samples of a text, by the names of the table."""
    found = []
    for family in parse(text):
        total = "_total" if family.type == "counter" else ""
        for each in family.samples:
            name = f"{family.name}{total}"
            if family.type != "histogram" or each.name.endswith("_count"):
                found.append((name, dict(each.labels), each.value))
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    return sum(
        number for each, has, number in found if each == name and labels.items() <= has.items()
    )


def at_zero(found: Samples) -> set[str]:
    """Return the names of what is 0 for the model `chat`, and not missing."""
    return {name for name, labels, number in found if labels.get("model") == "chat" and not number}


async def scrape(http: httpx.AsyncClient, path: str = "/metrics") -> Samples:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(answer.text)


def check(found: Samples, actor: ActorKind, path: str = "/metrics") -> None:
    """Check that there is each metric of the table, with its labels, and no other."""
    wanted = {(row.name, frozenset(row.labels_of(actor))) for row in rows(actor, path)}
    names = {name for name, _ in wanted}
    there = {
        (name, frozenset(labels))
        for name, labels, _ in found
        if name.startswith("nebula_") or not name.startswith("process_")
    }
    assert {name for name, _ in there} == names
    assert there == wanted
    assert len(found) == len({(name, *sorted(labels.items())) for name, labels, _ in found})


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster in which everything has happened that metrics tell of."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up()
        asyncio.run(use(cluster))
        yield cluster
    finally:
        cluster.close()
    assert not cluster.violations()


async def use(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("chat", replicas=2, memory="64MiB", options=SLOW)
    async with cluster.http() as http:
        limits = {"tokens_per_day": 10_000_000}
        assert (await http.put("/admin/limits/model/chat", json=limits)).status_code == 202
        await continued(cluster, http)
        assert (await http.post(CHAT, json=chat("nobody"))).status_code == 404
        kept = await http.post(CHAT, json=chat("chat"), headers={"x-resumable": "true"})
        again = await http.get(f"/v1/streams/{kept.headers['x-request-id']}")
        assert again.status_code == 200
        await failed(cluster, http)
        await refused(cluster, http)
        await come_and_gone(cluster, http)
    await snapshot(cluster)


async def continued(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """Have streams continue on another engine."""
    heard = [Heard() for _ in range(8)]
    running = [asyncio.create_task(stream(http, chat("chat"), each)) for each in heard]
    await begun(cluster, heard)
    await kill_engine(cluster, "chat-0")
    await asyncio.gather(*running)
    assert all(each.whole for each in heard)


async def failed(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """Have a request get an error from Nebula."""
    answer = await http.post(CHAT, json=chat("chat"), headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 504, answer.text


async def refused(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """Have a router refuse a request."""
    await cluster.load("full", memory="64MiB", options=SLOW, max_in_flight=1, max_waiting=0)
    heard = Heard()
    running = asyncio.create_task(stream(http, chat("full"), heard))
    await begun(cluster, [heard], 1)
    assert (await http.post(CHAT, json=chat("full"))).status_code == 429
    await running


async def come_and_gone(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """Have a model woken and put to sleep."""
    await cluster.load("shy", memory="64MiB", on_request=True, idle_after=1.0, stands="asleep")
    assert (await http.post(CHAT, json=chat("shy"))).status_code == 200
    await cluster.until(lambda state: "shy-0" not in state.replicas, "its engine is gone")


async def snapshot(cluster: Cluster) -> None:
    """Make a snapshot, which routers make after many events."""
    async with joined(cluster.url(), patience=PATIENCE) as projection:
        await Snapshots(projection.log).put(projection.state)


@contextlib.asynccontextmanager
async def in_flight(cluster: Cluster, http: httpx.AsyncClient) -> AsyncIterator[None]:
    heard = Heard()
    running = asyncio.create_task(stream(http, chat("chat"), heard))
    await begun(cluster, [heard], 1)
    yield
    running.cancel()


async def test_a_gateway_emits_every_metric_of_the_table_and_no_other(used: Cluster) -> None:
    async with used.http() as http, in_flight(used, http):
        found = await scrape(http)
    check(found, "gateway")
    path = {"path": CHAT, "model": "chat"}
    assert value(found, "nebula_requests_total", **path, status="200") == 9
    assert value(found, "nebula_requests_total", **path, status="504") == 1
    assert value(found, "nebula_requests_total", model="", status="404") == 1
    assert ("nebula_requests_total", 0.0) in {
        (name, number) for name, labels, number in found if labels.get("status") == "503"
    }
    assert value(found, "nebula_request_duration_seconds", **path) == 9
    assert value(found, "nebula_time_to_first_token_seconds", **path) == 8
    assert value(found, "nebula_time_per_output_token_seconds", **path) == 8
    assert value(found, "nebula_tokens_total", model="chat", type="output") == 9 * 60
    assert value(found, "nebula_requests_refused_total", reason="model_not_found") == 1
    assert value(found, "nebula_requests_failed_total", reason="overdue") == 1
    assert 1 <= value(found, "nebula_streams_continued_total", model="chat") <= 8
    assert value(found, "nebula_answers_resumed_total") == 1
    assert value(found, "nebula_requests_in_flight", model="chat") == 1
    assert value(found, "nebula_limit", kind="model", subject="chat") == 10_000_000
    assert value(found, "nebula_ready") == 1
    assert value(found, "nebula_store_disk_bytes") > value(found, "nebula_store_disk_free_bytes")
    assert value(found, "nebula_limit_used", kind="model", subject="chat") > 0


async def test_a_gateway_hands_on_the_metrics_of_routers_and_nodes(used: Cluster) -> None:
    async with used.http() as http:
        found = await scrape(http, "/metrics/cluster")
    ups = [each for each in found if each[0] == "nebula_actor_up"]
    assert sorted(labels["actor"] for _, labels, _ in ups) == ["node", "router"]
    assert all(number == 1 for *_, number in ups)
    check(ups, "gateway", "/metrics/cluster")
    for actor in ("router", "node"):
        (name,) = [labels["name"] for _, labels, _ in ups if labels["actor"] == actor]
        of_one = [each for each in found if each[1].get(actor) == name]
        check(of_one, actor)
        assert any(each[0] == "process_resident_memory_bytes" for each in of_one)
    check_router(found)
    check_node(found)


def check_router(found: Samples) -> None:
    assert value(found, "nebula_queue_wait_seconds", model="chat") >= 10
    reason = {"model": "full", "reason": "queue-full"}
    assert value(found, "nebula_router_requests_refused_total", **reason) == 1
    assert value(found, "nebula_model_wakes_total", model="shy") == 1
    assert value(found, "nebula_model_sleeps_total", model="shy") >= 1
    assert value(found, "nebula_model_placements_total", model="chat") >= 1
    assert value(found, "nebula_decisions_total", type="ModelWoken") == 1
    assert value(found, "nebula_models", phase="asleep") == 1
    assert value(found, "nebula_models") == 3
    assert value(found, "nebula_nodes", state="ready") == 1
    assert value(found, "nebula_model_replicas_wanted", model="chat") == 2
    assert value(found, "nebula_stream_up", stream="NEBULA_EVENTS") == 1
    assert value(found, "nebula_stream_replicas_current", stream="NEBULA_EVENTS") == 1
    assert value(found, "nebula_snapshot_lag_events") == 0


def check_node(found: Samples) -> None:
    assert value(found, "nebula_engine_failures_total", replica="chat-0") == 1
    assert value(found, "nebula_engine_starts_total", replica="chat-0") == 2
    assert value(found, "nebula_engine_starts_total", model="shy") == 1
    assert value(found, "nebula_engine_start_duration_seconds", model="chat") >= 2
    assert value(found, "nebula_device_memory_promised_bytes") == 3 * 64 * 1024**2
    assert value(found, "nebula_device_memory_free_bytes") > 0


async def test_a_gateway_hands_on_what_engines_tell_with_where_it_is_from(used: Cluster) -> None:
    async with await used.engine_http("chat-1") as engine:
        own = (await engine.get("/metrics")).text
    async with used.http() as http:
        found = await scrape(http, "/metrics/engines")
        other = await scrape(http, "/metrics/engines?node=nowhere")
    check([each for each in found if each[0] == "nebula_engine_up"], "gateway", "/metrics/engines")
    where = {"node": "here", "replica": "chat-1", "model": "chat"}
    of_it = [each for each in found if where.items() <= each[1].items()]
    handed_on = {(name, *sorted(labels.items())) for name, labels, _ in of_it}
    told = {(name, *sorted({**labels, **where}.items())) for name, labels, _ in samples(own)}
    assert told < handed_on
    assert value(found, "vllm:num_requests_running", model="chat", replica="chat-1") == 0
    assert value(found, "nebula_engine_up") == 3
    assert not other


async def test_metrics_are_also_told_in_openmetrics(used: Cluster) -> None:
    async with used.http() as http:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await http.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert "nebula_build_info" in [each.name for each in families]


async def test_routers_and_nodes_have_ports_that_are_found_by_service_discovery(
    own_cluster: Cluster,
) -> None:
    cluster, ports = own_cluster, {"router": free_port(), "node": free_port()}
    cluster.start("nats")
    cluster.start("gateway")
    for actor, port in ports.items():
        cluster.start(actor, "--metrics-port", str(port))
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with cluster.http() as http:
        issued = await http.post("/admin/keys", json={"scopes": ["view"]})
        cluster.key = issued.json()["secret"]
        targets = (await http.get("/admin/sd")).json()
    found = {each["labels"]["__meta_nebula_actor"]: each["targets"] for each in targets}
    assert found == {
        "gateway": [f"127.0.0.1:{cluster.port}"],
        **{actor: [f"127.0.0.1:{port}"] for actor, port in ports.items()},
    }
    async with cluster.http() as http:
        own = await scrape(http)
    assert at_zero(own) >= {"nebula_requests_failed_total", "nebula_streams_continued_total"}
    async with cluster.http(ports["router"]) as http:
        own = await scrape(http)
        assert value(own, "nebula_models") == 1
        assert at_zero(own) >= {"nebula_router_requests_refused_total", "nebula_model_wakes_total"}
        assert (await http.get("/metrics/engines")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405
    async with cluster.http(ports["node"]) as http:
        assert value(await scrape(http), "nebula_engines") == 1
        assert value(await scrape(http, "/metrics/engines"), "nebula_engine_up") == 1
        assert (await http.get("/metrics", headers={"authorization": ""})).status_code == 401
    cluster.stop("node")
    cluster.start("node", "--metrics-port", str(ports["node"]), "--metrics-open")
    cluster.key = ""
    async with cluster.http(ports["node"]) as http:

        async def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get("/metrics")).status_code == 200
            return False

        await cluster.poll(answers, "the node tells metrics without a key")
        foreign = await http.get("/metrics", headers={"host": "evil.example.com"})
        assert foreign.status_code == 421


async def test_metrics_need_a_key_with_the_scope_view(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.variables = {"NEBULA_OPEN": "infer"}
    own_cluster.up("--no-node")
    await own_cluster.take_key()
    async with own_cluster.http() as http:
        for scope, status in (("infer", 403), ("view", 200)):
            issued = await http.post("/admin/keys", json={"scopes": [scope]})
            key = {"authorization": f"Bearer {issued.json()['secret']}"}
            assert (await http.get("/metrics", headers=key)).status_code == status
        without = await http.get("/metrics", headers={"authorization": ""})
    assert without.status_code == 401
