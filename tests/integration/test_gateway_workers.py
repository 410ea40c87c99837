"""Several workers of one gateway at one address: which serve, which die, and what is left."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nebula.cli.exits import FATAL, USAGE
from tests.integration.asking import CHAT, Heard, chat, prompt, resume, said, stream, words
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

WORKERS = 3
TOKENS = 40
LONG = 10 * TOKENS
SLOW = {"simulate-token": 0.05, "simulate-tokens": TOKENS}


def workers(cluster: Cluster) -> dict[int, psutil.Process]:
    """Return the workers that live, by their numbers."""
    found = {}
    for child in psutil.Process(cluster.pid("gateway")).children():
        with contextlib.suppress(psutil.Error):
            line = child.cmdline()
            if "--as-worker" in line:
                told = line[line.index("--as-worker") + 1]
                found[int(told.partition('"number":')[2].partition(",")[0])] = child
    return found


def connections(cluster: Cluster, process: psutil.Process) -> int:
    """Return how many clients a worker serves; 0 for one that has ended."""
    try:
        found = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return 0
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == cluster.port for each in found
    )


async def serving(cluster: Cluster, number: int = WORKERS) -> dict[int, psutil.Process]:
    """Wait until so many workers take connections."""

    async def so() -> bool:
        here = workers(cluster)
        if len(here) < number:
            return False
        async with contextlib.AsyncExitStack() as open_ones:
            for _ in range(2 * number):
                _, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
                open_ones.callback(writer.close)
            return await each_has(cluster, list(here.values()), 1)

    await cluster.ready()
    await cluster.poll(so, f"{number} workers take connections")
    return workers(cluster)


async def each_has(cluster: Cluster, there: list[psutil.Process], number: int) -> bool:
    """Return whether each of these workers soon serves so many clients, or more."""
    for _ in range(40):
        if all(connections(cluster, each) >= number for each in there):
            return True
        await asyncio.sleep(0.05)
    return False


async def idle(cluster: Cluster, number: int = WORKERS) -> dict[int, psutil.Process]:
    """Wait until so many workers take connections, and none has one."""
    here = await serving(cluster, number)

    async def so() -> bool:
        return not any(connections(cluster, each) for each in here.values())

    await cluster.poll(so, "no worker has a connection")
    return here


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose gateway has several workers; a worker that a test kills comes back."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        for name in ("nats", "router", "node"):
            cluster.start(name)
        cluster.start("gateway", "--workers", str(WORKERS), "--grace", "240")
        yield cluster
    finally:
        cluster.close()


@contextlib.asynccontextmanager
async def each_worker(
    cluster: Cluster, number: int = WORKERS
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Yield clients with one connection each, all of different workers."""
    await idle(cluster, number)
    async with contextlib.AsyncExitStack() as open_ones:
        clients = []
        for _ in range(number):
            client = await open_ones.enter_async_context(cluster.http())
            assert (await client.get("/health")).status_code == 200  # the connection stays open
            clients.append(client)
        yield clients


async def loaded(cluster: Cluster, model: str, **fields: Any) -> None:
    """Have a model, and have all workers know that it is ready."""
    await serving(cluster)
    if model not in (await cluster.state()).models:
        await cluster.load(model, memory="64MiB", **fields)
    async with each_worker(cluster) as clients:
        for client in clients:

            async def so(client: httpx.AsyncClient = client) -> bool:
                answer = await client.get(f"/admin/models/{model}")
                return answer.status_code == 200 and answer.json()["status"]["phase"] == "ready"

            await cluster.poll(so, f"a worker knows {model}")


async def test_each_connection_goes_to_the_worker_with_the_fewest(cluster: Cluster) -> None:
    here = await idle(cluster)
    async with contextlib.AsyncExitStack() as open_ones:
        for _ in range(4 * WORKERS):
            _, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
            open_ones.callback(writer.close)
        assert await each_has(cluster, list(here.values()), 4)


async def test_all_workers_answer_requests_and_streams(cluster: Cluster) -> None:
    await loaded(cluster, "chat")
    async with each_worker(cluster) as clients:
        for client in clients:
            assert said(await client.post(CHAT, json=chat("chat", "word", max_tokens=2)))
            heard = Heard()
            await stream(client, chat("chat", "word", stream=True, max_tokens=3), heard)
            assert heard.whole


async def test_a_worker_that_dies_comes_back_and_another_gives_the_rest_of_its_answer(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "slow", options=SLOW)
    here = await idle(cluster)
    heard = Heard()
    async with cluster.http() as asking, cluster.http() as other:
        body = chat("slow", prompt(1), stream=True)
        asked = {"X-Resumable": "true"}
        streaming = asyncio.create_task(stream(asking, body, heard, **asked))

        async def begun() -> bool:
            return len(heard.chunks) >= 3

        await cluster.poll(begun, "the stream has begun")
        [its] = [each for each in here.values() if connections(cluster, each)]
        os.kill(its.pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            await streaming
        await resume(other, heard.request, heard.event_ids[-1], heard)
        assert heard.text == words(1, TOKENS)
    after = await serving(cluster)
    assert set(after) == set(here)
    assert len({each.pid for each in after.values()} - {each.pid for each in here.values()}) == 1
    assert "(killed by SIGKILL); starting it again in" in cluster.output("gateway")


async def test_a_worker_that_is_told_to_end_ends_its_requests_and_the_others_get_what_is_new(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "long", options={**SLOW, "simulate-tokens": LONG})
    here = await idle(cluster)
    heard = Heard()
    async with cluster.http() as asking:
        streaming = asyncio.create_task(stream(asking, chat("long", prompt(1)), heard))

        async def begun() -> bool:
            return len(heard.chunks) >= 3

        await cluster.poll(begun, "the stream has begun")
        [its] = [each for each in here.values() if connections(cluster, each)]
        its.terminate()
        others = [each for each in here.values() if each != its]

        async def passed_over() -> bool:
            async with contextlib.AsyncExitStack() as open_ones:
                for _ in range(2 * WORKERS):
                    _, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
                    open_ones.callback(writer.close)
                return await each_has(cluster, others, WORKERS) and connections(cluster, its) <= 1

        await cluster.poll(passed_over, "it gets no connection any more")
        for _ in range(2 * WORKERS):
            async with cluster.http() as other:
                assert (await other.get("/ready")).status_code == 200
        await streaming
    assert heard.text == words(1, LONG)
    after = await serving(cluster)
    assert its.pid not in {each.pid for each in after.values()}


async def test_each_worker_has_its_number_in_its_log_lines(cluster: Cluster) -> None:
    await serving(cluster)
    text = cluster.output("gateway")
    for number in range(1, WORKERS + 1):
        assert f"worker {number} nebula.actors.actor: gateway " in text


def samples(text: str, name: str) -> dict[str, float]:
    """Return a metric's values in a scrape, added up by their worker."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels["worker"]
                found[worker] = found.get(worker, 0) + sample.value
    return found


async def test_a_scrape_at_any_worker_has_the_counters_of_all_and_none_goes_back(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "chat")
    here = await serving(cluster)
    asked = "nebula_requests_total"
    async with each_worker(cluster) as clients:
        before = samples((await clients[0].get("/metrics")).text, asked)
        for number, client in enumerate(clients, 1):
            for _ in range(number):
                said(await client.post(CHAT, json=chat("chat", max_tokens=1)))
        scrapes = [samples((await client.get("/metrics")).text, asked) for client in clients]
        text = (await clients[0].get("/metrics")).text
        assert samples(text, "nebula_worker_up") == {str(number): 1.0 for number in here}
        assert set(samples(text, "process_cpu_seconds_total")) == {str(each) for each in here}
        here[2].suspend()  # it answers no question now
        try:
            asking = [asyncio.create_task(client.get("/metrics")) for client in clients]
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            told = done.pop().result().text
        finally:
            here[2].resume()
        await asyncio.gather(*asking)
    assert scrapes[0] == scrapes[1] == scrapes[2]
    more = {number: scrapes[0][number] - before.get(number, 0) for number in scrapes[0]}
    assert sorted(more.values()) == [1, 2, 3]
    assert samples(told, "nebula_worker_up") == {"1": 1.0, "2": 0.0, "3": 1.0}
    assert samples(told, asked) == {key: scrapes[0][key] for key in ("1", "3")}


async def test_a_second_gateway_on_the_port_is_refused(cluster: Cluster) -> None:
    await serving(cluster)
    told = await cluster.nebula("gateway", "--port", str(cluster.port), "--workers", "2")
    assert told.code == FATAL
    assert told.err.splitlines()[-1].endswith("the port is in use; give another --port")


async def test_what_keeps_all_workers_from_running_is_said_once(cluster: Cluster) -> None:
    await serving(cluster)
    told = await cluster.nebula("gateway", "--port", "1", "--workers", "2", "--cluster", "other")
    lines = [line for line in told.err.splitlines() if line.startswith("nebula: ")]
    assert told.code == FATAL
    assert len(lines) == 1
    keyless = ("--host", "0.0.0.0", "--port", str(free_port()), "--workers", "2")
    told = await cluster.nebula("gateway", *keyless)
    assert told.code == FATAL
    assert "has no API key yet" in told.err.splitlines()[-1]
    file = cluster.folder / "secret"
    file.write_bytes(b"\xff")  # what only a worker reads
    secret = ("--oidc-client", "c", "--oidc-grant", "g=view", "--oidc-secret-file", str(file))
    issuer = ("--oidc-issuer", "https://127.0.0.1")
    told = await cluster.nebula("gateway", "--port", "1", "--workers", "2", *issuer, *secret)
    assert told.code == USAGE
    assert told.err.count(f"--oidc-secret-file {file}: ") == 1


async def test_a_gateway_that_is_stopped_lets_all_its_workers_end_their_requests(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "node"):
        cluster.start(name)
    cluster.start("gateway", "--workers", "2", "--grace", "60")
    await serving(cluster, 2)
    await cluster.load("slow", memory="64MiB", options=SLOW)
    async with each_worker(cluster, 2) as clients:
        all_heard = [Heard() for _ in clients]
        body = chat("slow", prompt(1), stream=True)
        streaming = [
            asyncio.create_task(stream(client, body, heard))
            for client, heard in zip(clients, all_heard, strict=True)
        ]

        async def begun() -> bool:
            return all(each.chunks for each in all_heard)

        await cluster.poll(begun, "both streams have begun")
        stopping = asyncio.create_task(asyncio.to_thread(cluster.stop, "gateway"))
        await asyncio.gather(*streaming)
    assert await stopping == 0
    assert [each.text for each in all_heard] == [words(1, TOKENS)] * 2


async def test_no_worker_outlives_kill_9_of_its_parent_and_the_next_one_takes_the_port(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--workers", "2")
    before = await serving(cluster, 2)
    cluster.kill("gateway")
    await asyncio.to_thread(psutil.wait_procs, list(before.values()), 60)
    assert not any(each.is_running() for each in before.values())

    async def again() -> bool:
        with contextlib.suppress(LookupError, psutil.Error):
            return len(workers(cluster)) == 2
        return False

    await cluster.poll(again, "the gateway is there again")
    after = await serving(cluster, 2)
    assert not {each.pid for each in after.values()} & {each.pid for each in before.values()}


async def test_workers_answer_at_a_unix_socket_which_is_gone_with_them(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    path = cluster.folder / "socket"
    for name in ("nats", "router"):
        cluster.start(name)
    cluster.start("gateway", "--workers", "2", "--uds", str(path))

    async def ready() -> bool:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get("/ready")).status_code == 200
        return False

    await cluster.poll(ready, "it is ready")
    assert await asyncio.to_thread(cluster.stop, "gateway") == 0
    assert not path.exists()


async def test_workers_answer_at_ipv6_and_ipv4_alike(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.start("gateway", "--workers", "2", "--host", "localhost", "--port", str(cluster.port))

    async def alive() -> bool:
        found = []
        for host in ("127.0.0.1", "[::1]"):
            async with httpx.AsyncClient(trust_env=False) as http:
                with contextlib.suppress(httpx.HTTPError):
                    found.append(
                        (await http.get(f"http://{host}:{cluster.port}/health")).status_code
                    )
        return found == [200, 200]

    await cluster.poll(alive, "both families are answered")
