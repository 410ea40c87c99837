"""What a gateway and `nebula status` say: which paths there are, and which cluster it is."""

import anthropic
import openai
import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/audio/speech", "/v1"])
async def test_an_unknown_path_is_named_and_where_all_are_listed(
    cluster: Cluster, path: str
) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, path)
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert error["code"] == "unknown_url"
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith(f"there is nothing at {path!r}")
            assert "GET /docs lists all paths" in error["message"]
            assert len(error["message"]) < 200


async def test_a_long_path_is_cut(cluster: Cluster) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        told = (await http.get("/metrics%1b" + "x" * 500)).json()["error"]["message"]
    assert told.startswith("there is nothing at '/metrics\\x1bxxx")
    assert "x" * 201 not in told
    assert told.endswith("GET /docs lists all paths, and GET /openapi.json too")


async def test_a_method_that_a_path_does_not_take_is_named_with_those_that_it_takes(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        for path in ("/v1/models", "/v1/chat/completions"):
            answer = await http.put(path)
            assert answer.status_code == 405
            said = f"{path!r} does not take PUT: it takes {answer.headers['allow']}"
            assert answer.json()["error"]["message"] == said
            assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_ready_and_status_say_which_cluster_it_is(cluster: Cluster) -> None:
    await cluster.ready()
    there = (await cluster.state()).cluster
    async with cluster.http() as http:
        ready = (await http.get("/ready")).json()
        state = (await http.get("/admin/state")).json()
    shown = {"id": there.id, "name": there.name, "version": there.version}
    assert there.id
    assert ready["cluster"] == shown
    assert {**state["cluster"], **shown} == state["cluster"]
    assert (
        f"cluster {there.id!r}, version {there.version}; " in (await cluster.nebula("status")).out
    )


@pytest.mark.parametrize(
    ("base", "advice"),
    [
        ("", "the client's base URL lacks '/v1'"),
        ("/v1/v1", "the client's base URL has '/v1' too much"),
        ("/openai/v1", "the client's base URL has '/openai' too much"),
        ("/api", "the client's base URL has '/api' in place of '/v1'"),
    ],
)
async def test_openais_client_with_a_wrong_base_url_is_told_the_right_one(
    cluster: Cluster, base: str, advice: str
) -> None:
    await cluster.ready()
    url = f"http://127.0.0.1:{cluster.port}{base}"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as chatted:
            await client.chat.completions.create(model="chat", messages=[])
        assert f"Did you mean POST /v1/chat/completions? Then {advice}" in str(chatted.value)
        with pytest.raises(openai.NotFoundError) as listed:
            await client.models.list()
        assert f"Did you mean GET /v1/models? Then {advice}" in str(listed.value)


@pytest.mark.parametrize("base", ["/v1", "/anthropic", "//"])
async def test_anthropics_client_with_a_wrong_base_url_is_told_in_its_own_form(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    url = f"http://127.0.0.1:{cluster.port}{base}"
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError) as asked:
            await client.messages.create(model="chat", max_tokens=1, messages=[])
    assert asked.value.body["type"] == "error"  # type: ignore[index]
    assert "/v1/messages" in str(asked.value)


async def test_a_get_where_a_post_is_meant_is_told_so(cluster: Cluster) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        got = await http.get("/v1/chat/completions")
        missed = await http.get("/chat/completions")
        version = {"anthropic-version": "2023-06-01"}
        unknown = await http.post("/nothing", headers=version)
    assert got.status_code == 405
    assert got.headers["allow"] == "POST, OPTIONS"
    assert "does not take GET: it takes POST" in got.json()["error"]["message"]
    assert missed.status_code == 404
    assert "Did you mean POST /v1/chat/completions?" in missed.json()["error"]["message"]
    assert unknown.json()["error"]["type"] == "not_found_error"
