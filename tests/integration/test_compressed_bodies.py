"""Request bodies with a Content-Encoding: read on every path, bounded, or refused with a reason."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, Callable

import brotli
import msgspec
import psutil
import pytest
from backports import zstd

from nebula.http.inference import LARGEST_BODY
from tests.integration.asking import CHAT, EMBEDDINGS, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "br": brotli.compress,
    "GZip": gzip.compress,
    "identity": bytes,
    "gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
    "zstd, identity, br": lambda body: brotli.compress(zstd.compress(body)),
}
BODY = msgspec.json.encode(chat("chat", "a b c d", max_tokens=4))


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")
        await cluster.load("embed", memory="64MiB", task="embedding")

    asyncio.run(load())


@pytest.mark.parametrize("coding", CODERS)
async def test_inference_reads_them(cluster: Cluster, coding: str) -> None:
    squeeze, headers = CODERS[coding], {"Content-Encoding": coding}
    async with cluster.http() as http:
        assert said(await http.post(CHAT, content=squeeze(BODY), headers=headers)) == "a b c d"
        body = msgspec.json.encode({"model": "embed", "input": "hello"})
        answer = await http.post(EMBEDDINGS, content=squeeze(body), headers=headers)
        assert answer.status_code == 200


async def test_codings_on_two_lines_are_one_list(cluster: Cluster) -> None:
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "br")]
    async with cluster.http() as http:
        coded = brotli.compress(gzip.compress(BODY))
        assert said(await http.post(CHAT, content=coded, headers=headers)) == "a b c d"


async def test_a_compressed_body_that_comes_in_chunks_is_read(cluster: Cluster) -> None:
    coded = zstd.compress(BODY)

    async def parts() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(coded), 10):
            yield coded[at : at + 10]
            await asyncio.sleep(0.005)

    async with cluster.http() as http:
        answer = await http.post(CHAT, content=parts(), headers={"Content-Encoding": "zstd"})
        assert said(answer) == "a b c d"


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "deflate"])
async def test_admin_takes_every_coding_that_requests_may_have(
    cluster: Cluster, coding: str
) -> None:
    squeeze, headers = CODERS[coding], {"Content-Encoding": coding}
    name = f"alias-{coding}"
    alias = squeeze(msgspec.json.encode({"targets": [{"model": "chat"}]}))
    scale = squeeze(b'{"replicas": 1}')
    model = {"id": f"m-{coding}", "source": "simulated", "memory": "64MiB"}
    loaded = squeeze(msgspec.json.encode(model))
    async with cluster.http() as http:
        for method, path, body in (
            ("PUT", f"/admin/aliases/{name}", alias),
            ("PATCH", "/admin/models/chat", scale),
            ("POST", "/admin/models", loaded),
        ):
            answer = await http.request(method, path, content=body, headers=headers)
            assert answer.status_code == 202, answer.text
        assert (await http.get(f"/admin/aliases/{name}")).status_code == 200
        assert (await http.delete(f"/admin/models/m-{coding}")).status_code == 202


@pytest.mark.parametrize("path", [CHAT, "/admin/models"])
@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "deflate"])
async def test_one_that_was_cut_is_a_400_that_says_so(
    cluster: Cluster, path: str, coding: str
) -> None:
    async with cluster.http() as http:
        refused = await http.post(
            path, content=CODERS[coding](BODY)[:-9], headers={"Content-Encoding": coding}
        )
    told = error(refused, 400)
    assert told["code"] == "invalid_encoding"
    assert coding in told["message"]


async def test_one_that_is_not_what_it_says_is_too(cluster: Cluster) -> None:
    async with cluster.http() as http:
        refused = await http.post(CHAT, content=BODY, headers={"Content-Encoding": "gzip"})
        assert "not valid gzip" in error(refused, 400)["message"]
        unannounced = await http.post(CHAT, content=gzip.compress(BODY))
        assert error(unannounced, 400)["code"] == "invalid_json"


@pytest.mark.parametrize("path", [CHAT, "/admin/models"])
@pytest.mark.parametrize("coding", ["compress", "lzma", "gzip, foo", "*", "gzip," * 9])
async def test_another_coding_is_a_415_with_those_that_are_taken(
    cluster: Cluster, path: str, coding: str
) -> None:
    async with cluster.http() as http:
        refused = await http.post(path, content=BODY, headers={"Content-Encoding": coding})
    assert error(refused, 415)["code"] == "unsupported_encoding"
    assert refused.headers["accept-encoding"] == "gzip, deflate, br, zstd"


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "gzip, gzip"])
async def test_a_bomb_is_a_413_and_takes_no_memory(cluster: Cluster, coding: str) -> None:
    gateway = psutil.Process(cluster.pid("gateway"))
    bomb = CODERS[coding](bytes(256 * 1024 * 1024))
    before = gateway.memory_info().rss
    async with cluster.http() as http:
        refused = await http.post(CHAT, content=bomb, headers={"Content-Encoding": coding})
        assert error(refused, 413)["code"] == "body_too_large"
        assert (await http.get("/health")).status_code == 200
    assert gateway.memory_info().rss - before < 2 * LARGEST_BODY


async def test_what_it_is_decoded_to_is_held_to_the_limit_and_no_less_is_taken(
    cluster: Cluster,
) -> None:
    text = "x" * (7 * 1024 * 1024)
    body = gzip.compress(msgspec.json.encode(chat("chat", text, max_tokens=1)))
    async with cluster.http() as http:
        answer = await http.post(CHAT, content=body, headers={"Content-Encoding": "gzip"})
        assert said(answer) == text
