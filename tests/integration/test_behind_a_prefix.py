"""A gateway that a proxy shows under a prefix, which nginx or haproxy removes or leaves."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.asking import chat
from tests.integration.cluster import Cluster
from tests.integration.proxies import haproxy, nginx
from tests.ports import free_port

pytestmark = pytest.mark.anyio

ROOT = "/tools/llm"


@pytest.fixture(scope="module")
def rooted(cluster: Cluster) -> int:
    """The port of a gateway that is shown under a prefix."""
    port = free_port()

    async def start() -> None:
        await cluster.ready()
        await cluster.load("chat", name="org/chat")
        cluster.start("gateway-rooted", "--port", str(port), "--root-path", f"{ROOT}/")
        await cluster.ready(port)

    asyncio.run(start())
    return port


@pytest.fixture(params=["nginx-removes", "nginx-leaves", "haproxy-removes", "haproxy-leaves", "no"])
def front(request: pytest.FixtureRequest, rooted: int, tmp_path: Path) -> Iterator[int]:
    """The port of a proxy, or of the gateway itself."""
    gateway = f"http://127.0.0.1:{rooted}"
    with contextlib.ExitStack() as kept:
        match request.param:
            case "nginx-removes":
                server = f"location {ROOT}/ {{ proxy_pass {gateway}/; }}"
                yield kept.enter_context(nginx(tmp_path, rooted, server=server))
            case "nginx-leaves":
                server = f"location {ROOT} {{ proxy_pass {gateway}; }}"
                yield kept.enter_context(nginx(tmp_path, rooted, server=server))
            case "haproxy-removes":
                rule = rf"http-request replace-path ^{ROOT}(/.*)$ \1"
                yield kept.enter_context(haproxy(tmp_path, rooted, front=rule))
            case "haproxy-leaves":
                yield kept.enter_context(haproxy(tmp_path, rooted))
            case _:
                yield rooted


async def test_openais_client_is_served_below_the_prefix(front: int) -> None:
    url = f"http://127.0.0.1:{front}{ROOT}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        model = await client.models.retrieve("org/chat")
        assert model.id == "org/chat"
        stream = await client.chat.completions.create(
            model="org/chat", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        text = "".join([each.choices[0].delta.content or "" async for each in stream])
        assert text.split()


async def test_every_address_that_is_told_has_the_prefix(cluster: Cluster, front: int) -> None:
    async with cluster.http(front) as http:
        missed = await http.post(f"{ROOT}/chat/completions", json=chat("org/chat"))
        listed = await http.get(f"{ROOT}/v1/nothing")
        wrong = await http.get(f"{ROOT}/v1/chat/completions")
        task = await http.post(f"{ROOT}/v1/embeddings", json={"model": "org/chat", "input": "one"})
        unnamed = await http.put(f"{ROOT}/admin/aliases", json={})
    texts = [each.json()["error"]["message"] for each in (missed, listed, wrong, task, unnamed)]
    assert [each.status_code for each in (missed, listed, wrong, task, unnamed)] == [
        *(404, 404, 405, 400, 400)
    ]
    assert f"Did you mean POST {ROOT}/v1/chat/completions?" in texts[0]
    for text in texts:
        assert f"{ROOT}/" in text
        assert " /v1" not in text
        assert " /admin" not in text


async def test_a_prefix_that_the_gateway_itself_has_is_refused(cluster: Cluster) -> None:
    refused = await cluster.nebula("gateway", "--port", str(free_port()), "--root-path", "/v1")
    assert refused.code != 0
    assert "Choose another prefix" in refused.err
    unfit = await cluster.nebula("gateway", "--root-path", "llm")
    assert unfit.code == 2
    assert "'llm' is not a path such as /llm" in unfit.err
