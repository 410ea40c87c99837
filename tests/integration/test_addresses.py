"""Where a gateway listens: IPv4, IPv6, names, all there are, and what is told of the rest."""

import socket

import httpx
import pytest

from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

V4, V6 = "127.0.0.1", "[::1]"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


async def answers(port: int, host: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            return (await http.get(f"http://{host}:{port}/health")).status_code == 200
        except httpx.ConnectError:
            return False


@needs_ipv6
async def test_up_on_ipv6_serves_there_and_prints_what_can_be_tried(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--host", "::1")

    async def is_up() -> bool:
        return "Nebula is up" in cluster.output("up")

    await cluster.poll(is_up, "it says that it is up")
    assert f"Nebula is up: http://[::1]:{cluster.port} " in cluster.output("up")
    assert not await answers(cluster.port, V4)
    async with httpx.AsyncClient(
        base_url=f"http://[::1]:{cluster.port}", timeout=20, trust_env=False
    ) as http:
        request = {"id": "chat", "source": "simulated", "memory": "64MiB"}
        assert (await http.post("/admin/models", json=request)).status_code == 202
        await cluster.stands("chat", "ready")
        assert said(await http.post(CHAT, json=chat("chat", "hi", max_tokens=1))) == "hi"


@needs_ipv6
async def test_each_host_listens_where_it_says(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start("nats")
    for number, (host, there) in enumerate(
        [
            ("::", (V4, V6)),
            ("localhost", (V4, V6)),
            ("[::1]", (V6,)),
            ("0.0.0.0", (V4,)),
            ("127.0.0.1", (V4,)),
        ]
    ):
        name, port = f"gateway-{number}", free_port()
        cluster.start(name, "--host", host, "--port", str(port))

        async def listens(port: int = port, first: str = there[0]) -> bool:
            return await answers(port, first)

        await cluster.poll(listens, f"{host} is listened on")
        assert [each for each in (V4, V6) if await answers(port, each)] == list(there)
        said = cluster.output(name)
        shown = "[::1]" if there == (V6,) else "localhost" if host == "localhost" else V4
        assert f"http://{shown}:{port}, for " in said
        assert "connections at most" in said
        cluster.stop(name)


@pytest.mark.parametrize("command", ["gateway", "up"])
@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nowhere.invalid", "is not an address or a known host name"),
        ("", "an address is needed"),
        ("[nowhere]", "is not a valid IPv6 address"),
        ("http://localhost", "is not a valid address or host name"),
        ("localhost:8000", "is not a"),
        ("300.1.1.1", "is not an address or a known host name"),
    ],
)
async def test_a_host_that_is_none_is_told_as_that(
    own_cluster: Cluster, command: str, host: str, words: str
) -> None:
    told = await own_cluster.nebula(command, "--host", host, "--port", str(own_cluster.port))
    assert told.code == 2
    assert "--host" in told.err
    assert words in " ".join(told.err.split())
    assert "another --port" not in told.err


async def test_an_address_of_another_machine_is_told_as_that(own_cluster: Cluster) -> None:
    cluster = own_cluster
    told = await cluster.nebula("gateway", "--host", "192.0.2.1", "--port", str(cluster.port))
    assert told.code == 78
    assert "'192.0.2.1' is not an address of this machine" in " ".join(told.err.split())
    assert "--port" not in told.err


async def test_a_port_that_is_taken_is_told_as_that(own_cluster: Cluster) -> None:
    cluster = own_cluster
    with socket.create_server(("127.0.0.1", cluster.port)):
        told = await cluster.nebula("gateway", "--port", str(cluster.port))
    assert told.code == 78
    assert f"127.0.0.1:{cluster.port}: the port is in use; give another --port" in " ".join(
        told.err.split()
    )


async def test_of_all_addresses_one_is_printed_that_can_be_tried(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--host", "0.0.0.0", "--no-node")

    async def is_up() -> bool:
        return "listens on all addresses" in cluster.output("up")

    await cluster.poll(is_up, "it says that it is up")
    said = cluster.output("up")
    assert f"Nebula is up: http://127.0.0.1:{cluster.port} " in said
    assert f"elsewhere try http://{socket.gethostname()}:{cluster.port}" in said
