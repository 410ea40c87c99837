"""A gateway on a Unix socket: OpenAI's client, proxies' Host fields, and the end of its file."""

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import httpx2
import openai
import pytest

from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


@pytest.fixture
def place() -> Iterator[Path]:
    """A path that is short enough for a socket."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "gateway.sock"


def over(path: Path, host: str = "localhost") -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    return httpx.AsyncClient(base_url=f"http://{host}", transport=transport, timeout=60)


def mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.is_socket() else None


async def served(cluster: Cluster, path: Path) -> None:
    async def answers() -> bool:
        try:
            async with over(path) as http:
                return (await http.get("/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    await cluster.poll(answers, "the gateway on the socket is ready")


async def test_clients_are_served_on_a_unix_socket(cluster: Cluster, place: Path) -> None:
    cluster.start("gateway-uds", "--uds", str(place), "--uds-mode", "660")
    await served(cluster, place)
    assert mode(place) == 0o660
    async with over(place) as http:
        assert said(await http.post(CHAT, json=chat("chat", "hi", max_tokens=1))) == "hi"
        answers = await asyncio.gather(*(http.get("/v1/models") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        page = {"origin": "https://evil.example"}
        assert (await http.get("/v1/models", headers=page)).status_code == 403
    async with over(place, "evil.example") as http:
        assert (await http.get("/v1/models")).status_code == 421
    transport = httpx2.AsyncHTTPTransport(uds=str(place))
    async with openai.AsyncOpenAI(
        base_url="http://gateway/v1",
        api_key="none",
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:
        stream = await client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        text = "".join([each.choices[0].delta.content or "" async for each in stream])
        assert text.split()
    second = await cluster.nebula("gateway", "--uds", str(place))
    assert second.code != 0
    assert "another process listens on it" in second.err
    assert cluster.stop("gateway-uds") == 0
    assert mode(place) is None


async def test_a_killed_gateways_socket_is_taken_over(cluster: Cluster, place: Path) -> None:
    cluster.start("gateway-killed", "--uds", str(place))
    await served(cluster, place)
    cluster.kill("gateway-killed")
    assert mode(place) == 0o600
    cluster.start("gateway-next", "--uds", str(place))
    await served(cluster, place)
    assert cluster.stop("gateway-next") == 0


async def test_a_socket_is_instead_of_a_port(cluster: Cluster, place: Path) -> None:
    refused = await cluster.nebula("gateway", "--uds", str(place), "--port", "8000")
    assert refused.code == 2
    assert "--uds is instead of --host and --port" in refused.err
    unfit = await cluster.nebula("gateway", "--uds", str(place), "--uds-mode", "rw")
    assert "'rw' is not a mode such as 600" in unfit.err


async def test_a_whole_cluster_has_its_gateway_on_a_socket(
    own_cluster: Cluster, place: Path
) -> None:
    cluster = own_cluster
    cluster.up("--uds", str(place))
    await served(cluster, place)

    async def told() -> bool:
        return f"Nebula is up: unix:{place}" in cluster.output("up").replace("\n", "")

    await cluster.poll(told, "it says where it is")
    assert cluster.stop("up") == 0
    assert mode(place) is None
