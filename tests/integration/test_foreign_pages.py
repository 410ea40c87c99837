"""What web pages of other origins ask for, on every path of a real gateway."""

import asyncio
import json

import pytest

from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

EVIL = {"origin": "https://evil.example"}
PWN = {"id": "pwn", "source": "simulated", "env": {"LD_PRELOAD": "/tmp/x.so"}}


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", name="org/chat")

    asyncio.run(load())


@pytest.mark.parametrize(
    "headers",
    [
        EVIL | {"content-type": "text/plain"},
        EVIL | {"content-type": "application/x-www-form-urlencoded"},
        {"origin": "null", "content-type": "multipart/form-data; boundary=x"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example:8000"},
    ],
)
async def test_no_foreign_page_loads_a_model(cluster: Cluster, headers: dict[str, str]) -> None:
    status = 421 if "host" in headers else 403
    async with cluster.http() as http:
        before = (await http.get("/ready")).json()["seq"]
        answer = await http.post("/admin/models", content=json.dumps(PWN), headers=headers)
        assert error(answer, status)["type"] == "permission_error"
        assert (await http.get("/ready")).json()["seq"] == before


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/admin/state", "/ready"])
async def test_no_method_and_no_path_is_left_out(cluster: Cluster, method: str, path: str) -> None:
    async with cluster.http() as http:
        assert (await http.request(method, path, headers=EVIL)).status_code == 403
        host = {"host": "evil.example"}
        assert (await http.request(method, path, headers=host)).status_code == 421


async def test_a_websocket_of_a_foreign_page_is_refused(cluster: Cluster) -> None:
    upgrade = EVIL | {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with cluster.http() as http, asyncio.timeout(10):
        assert (await http.get("/v1/models", headers=upgrade)).status_code in (400, 403)


async def test_curl_and_the_own_page_go_on_working(cluster: Cluster) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    own = {"origin": f"http://127.0.0.1:{cluster.port}", "sec-fetch-site": "same-origin"}
    async with cluster.http() as http:
        for headers in (form, own):
            said(await http.post(CHAT, content=json.dumps(chat("org/chat")), headers=headers))
        body = json.dumps({"id": "later", "source": "simulated", "replicas": 0})
        answer = await http.post("/admin/models", content=body, headers=form)
        assert answer.status_code == 202
        for host in (f"LOCALHOST:{cluster.port}", "localhost.", f"[::1]:{cluster.port}"):
            answer = await http.get("/admin/state", headers={"host": host})
            assert answer.status_code == 200
