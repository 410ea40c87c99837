"""What clients get through nginx and haproxy with their default settings, as Debian ships them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nebula.http.inference import LARGEST_BODY
from tests.integration.asking import CHAT, Heard, chat, error, prompt, said, stream, words
from tests.integration.cluster import Cluster
from tests.integration.proxies import haproxy, nginx
from tests.integration.wire import BODY, Wire, ask_chat, chunked, request

pytestmark = pytest.mark.anyio

UPGRADING = """
proxy_http_version 1.1;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection "upgrade";
"""
"""What people often write to let websockets pass everywhere."""

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAA")


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", options={"simulate-tokens": 100})

    asyncio.run(load())


@pytest.fixture(params=["nginx", "nginx-upgrading", "nginx-keeping", "haproxy"])
def front(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[int]:
    """The port of a proxy before the cluster, on which /admin is not to be reached."""
    closed = "location /admin { return 403; }"
    keeping = 'proxy_http_version 1.1; proxy_set_header Connection "";'
    with contextlib.ExitStack() as kept:
        match request.param:
            case "nginx":
                made = nginx(tmp_path, cluster.port, server=closed)
            case "nginx-upgrading":
                made = nginx(tmp_path, cluster.port, server=closed, location=UPGRADING)
            case "nginx-keeping":
                made = nginx(tmp_path, cluster.port, server=closed, location=keeping)
            case _:
                deny = "http-request deny if { path_beg /admin }"
                made = haproxy(tmp_path, cluster.port, front=deny)
        yield kept.enter_context(made)


async def test_chats_one_after_the_other_on_one_connection(cluster: Cluster, front: int) -> None:
    async with cluster.http(front) as http:
        for number in range(5):
            answer = await http.post(CHAT, json=chat("chat", prompt(number), max_tokens=5))
            assert said(answer) == words(number, 5)


async def test_many_at_once(cluster: Cluster, front: int) -> None:
    async with cluster.http(front) as http:
        answers = await asyncio.gather(
            *(http.post(CHAT, json=chat("chat", prompt(n), max_tokens=5)) for n in range(40))
        )
    assert [said(answer) for answer in answers] == [words(n, 5) for n in range(40)]


async def test_a_stream_is_whole(cluster: Cluster, front: int) -> None:
    async with cluster.http(front) as http:
        heard = await stream(http, chat("chat", prompt(1), max_tokens=50))
    assert heard.whole
    assert heard.text == words(1, 50)


async def test_a_stream_comes_on_as_its_engine_goes_on(cluster: Cluster, front: int) -> None:
    await cluster.tell_engine("chat-0", token=0.2)
    try:
        async with cluster.http(front) as http:
            heard = Heard()
            body = chat("chat", prompt(1), max_tokens=20)
            hearing = asyncio.create_task(stream(http, body, heard))

            async def some() -> bool:
                return 0 < len(heard.chunks) < 15

            await cluster.poll(some, "the first words are here, and not the last ones")
            await hearing
    finally:
        await cluster.tell_engine("chat-0", token=0.0)
    assert heard.text == words(1, 20)


async def test_an_engine_that_is_killed_amid_a_stream(cluster: Cluster, front: int) -> None:
    name = f"pair-{front}"
    options = {"simulate-tokens": 100, "simulate-token": 0.05}
    await cluster.load(name, replicas=2, memory="64MiB", options=options)
    async with cluster.http(front) as http:
        heard = Heard()
        hearing = asyncio.create_task(stream(http, chat(name, prompt(2), max_tokens=60), heard))

        async def some() -> bool:
            return len(heard.chunks) > 3

        await cluster.poll(some, "the stream runs")
        for replica in (f"{name}-0", f"{name}-1"):
            if (await cluster.engine_says(replica))["running"]:
                os.kill((await cluster.engine(replica)).pid, signal.SIGKILL)
                break
        await hearing
    assert heard.whole
    assert heard.text == words(2, 60)
    async with cluster.http() as http:
        assert (await http.delete(f"/admin/models/{name}")).status_code == 202


@pytest.mark.parametrize("size", [100_000, 900_000])
async def test_an_upload(cluster: Cluster, front: int, size: int) -> None:
    text = "x" * size
    async with cluster.http(front) as http:
        assert said(await http.post(CHAT, json=chat("chat", text, max_tokens=1))) == text


async def test_an_upload_in_chunks(cluster: Cluster, front: int) -> None:
    with Wire(front) as wire:
        answer = wire.ask(chunked(BODY[:20], BODY[20:]))
        assert answer.status == 200, answer


async def test_a_refused_upload_is_told_why(cluster: Cluster, tmp_path: Path) -> None:
    text = "x" * LARGEST_BODY
    with (
        nginx(tmp_path, cluster.port, location="client_max_body_size 0;") as first,
        nginx(
            tmp_path, cluster.port, location="client_max_body_size 0; proxy_request_buffering off;"
        ) as second,
        haproxy(tmp_path, cluster.port) as third,
    ):
        for port in (first, second, third):
            async with cluster.http(port) as http:
                refused = await http.post(CHAT, json=chat("chat", text))
                assert error(refused, 413)["code"] == "body_too_large"


async def test_an_offer_of_another_protocol_is_passed_over(cluster: Cluster, front: int) -> None:
    with Wire(front) as wire:
        for _ in range(2):
            assert wire.ask(ask_chat(*OFFER)).status == 200
        assert wire.ask(ask_chat(*OFFER)[: -len(BODY)], BODY).status == 200
        assert wire.ask(request()).status == 200


@pytest.mark.parametrize("offer", ["h2c", "websocket", "foo"])
async def test_no_body_carries_a_request_past_the_proxy(
    cluster: Cluster, front: int, offer: str
) -> None:
    hidden = request("DELETE /admin/models/chat HTTP/1.1") * 2
    head = ask_chat("Connection: Upgrade", f"Upgrade: {offer}", body=hidden)[: -len(hidden)]
    with Wire(front) as wire:
        assert wire.ask(request("DELETE /admin/models/chat HTTP/1.1")).status == 403
    with Wire(front) as wire:
        assert wire.ask(head, hidden).status == 400
        assert wire.silent()
        assert wire.ask(ask_chat()).status == 200
    await cluster.stands("chat", "ready")


async def test_connections_that_idle_are_used_again(cluster: Cluster, tmp_path: Path) -> None:
    """A gateway keeps connections for longer than nginx (60 s) keeps its own."""
    location = 'proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection "";'
    with nginx(
        tmp_path,
        cluster.port,
        upstream="keepalive 4;",
        server=f"location /v1 {{ {location} proxy_set_header Host localhost; }}",
    ) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            for _ in range(3):
                assert said(await http.post(CHAT, json=chat("chat", "hi", max_tokens=1))) == "hi"
                await asyncio.sleep(6)  # uvicorn's own patience was 5 s
