"""What a gateway and `nebula status` say: which paths there are, and which cluster it is."""

import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/audio/speech", "/v1"])
async def test_an_unknown_path_is_named_with_those_that_there_are(
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
            assert error["message"].startswith(f"there is nothing at {path!r}; there is: ")
            for each in ("/v1/chat/completions", "/v1/models", "/v1/streams/{"):
                assert each in error["message"]
            assert "/admin/" not in error["message"]


async def test_an_unknown_path_of_the_admin_api_names_those(cluster: Cluster) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        told = (await http.get("/admin/nonsense")).json()["error"]["message"]
    assert "DELETE|GET|PATCH /admin/models/{model}" in told
    assert "/v1/" not in told


async def test_elsewhere_all_but_the_admin_api_is_named_and_the_path_is_cut(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        told = (await http.get("/metrics%1b" + "x" * 500)).json()["error"]["message"]
    assert told.startswith("there is nothing at '/metrics\\x1bxxx")
    assert len(told) < 700
    assert "/ready" in told
    assert "/v1/models" in told


async def test_a_method_that_a_path_does_not_take_is_named_with_those_that_it_takes(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        answer = await http.put("/v1/models")
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.json()["error"]["message"].startswith("PUT '/v1/models': this path takes ")


async def test_ready_and_status_say_which_cluster_it_is(cluster: Cluster) -> None:
    await cluster.ready()
    there = (await cluster.state()).cluster
    async with cluster.http() as http:
        ready = (await http.get("/ready")).json()
        state = (await http.get("/admin/state")).json()
    shown = {"id": there.id, "name": there.name, "version": there.version}
    assert there.id
    assert ready["cluster"] == state["cluster"] == shown
    assert (
        f"cluster {there.id!r}, version {there.version}; " in (await cluster.nebula("status")).out
    )
