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

from nebula.metrics.metric import ActorKind
from nebula.metrics.table import rows
from tests.integration.asking import CHAT, Heard, chat, stream
from tests.integration.cluster import Cluster
from tests.integration.test_going_on import SLOW, begun, kill_engine

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
    assert value(found, "nebula_limit_used", kind="model", subject="chat") > 0


async def test_metrics_are_also_told_in_openmetrics(used: Cluster) -> None:
    async with used.http() as http:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await http.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert "nebula_build_info" in [each.name for each in families]


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
