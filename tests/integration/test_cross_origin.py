"""Pages of another origin that a gateway was told to let in: what their browsers are told."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.asking import CHAT, COMPLETIONS, EMBEDDINGS, chat, error, listen
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

APP = "https://app.example"
PAGE = {"origin": APP, "sec-fetch-site": "cross-site"}
PREFLIGHT = PAGE | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}
SMALL = {"memory": "64MiB"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that lets one page in."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up("--allow-origin", f"{APP}/")
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, "/v1/models", "/v1/streams/x"])
async def test_preflights_of_v1_are_answered(cluster: Cluster, path: str) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        answer = await http.options(path, headers=PREFLIGHT)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == APP
        asked = PREFLIGHT["access-control-request-headers"]
        assert answer.headers["access-control-allow-headers"] == asked
        foreign = await http.options(path, headers=PREFLIGHT | {"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize("path", ["/admin/models", "/admin/state", "/ready"])
async def test_admin_is_never_opened(cluster: Cluster, path: str) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        for method, headers in (("OPTIONS", PREFLIGHT), ("GET", PAGE), ("POST", PAGE)):
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_can_be_read_whether_it_is_a_stream_or_an_error(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    slow = {"simulate-first-token": 30}
    await cluster.load("chat", **SMALL)
    await cluster.load("full", max_in_flight=1, max_waiting=0, options=slow, **SMALL)
    await cluster.load("none", replicas=0, stands="", **SMALL)
    async with cluster.http() as http:
        async with http.stream("POST", CHAT, json=chat("chat", stream=True), headers=PAGE) as got:
            assert (await listen(got)).whole
        answers = [got]
        answers.append(await http.post(CHAT, json=chat("chat"), headers=PAGE))
        assert answers[-1].status_code == 200
        answers.append(await http.get("/v1/models", headers=PAGE))
        missing = await http.post(CHAT, json=chat("nope"), headers=PAGE)
        broken = await http.post(CHAT, content="{", headers=PAGE)
        error(missing, 404)
        error(broken, 400)
        ahead = asyncio.create_task(http.post(CHAT, json=chat("full")))

        async def busy() -> bool:
            return (await cluster.engine_says("full-0"))["running"] == 1

        await cluster.poll(busy, "the only place is taken")
        refused = await http.post(CHAT, json=chat("full"), headers=PAGE)
        error(refused, 429)
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
        nobody = await http.post(CHAT, json=chat("none"), headers=PAGE)
        error(nobody, 503)
        again = await http.get("/v1/streams/unknown", headers=PAGE)
        error(again, 404)
        wrong = await http.put(CHAT, headers=PAGE)
        error(wrong, 405)
        for answer in (*answers, missing, broken, refused, nobody, again, wrong):
            assert answer.headers["access-control-allow-origin"] == APP, answer.request
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "retry-after", "x-nebula-model"} <= set(exposed)
        assert "retry-after" in refused.headers


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
async def test_options_of_the_hot_paths_say_what_they_take(cluster: Cluster, path: str) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        answer = await http.options(path)
        assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
        answer = await http.delete(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
