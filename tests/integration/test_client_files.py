"""Files over OpenAI's API: the official client, whole content, and what is refused."""

import asyncio
import hashlib
import random
from pathlib import Path

import openai
import pytest

from tests.integration.asking import error
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

JSONL = b'{"custom_id": "request-1"}\n{"custom_id": "request-2"}\n'


@pytest.fixture(scope="module", autouse=True)
def _ready(cluster: Cluster) -> None:
    asyncio.run(cluster.ready())


def official(cluster: Cluster, key: str = "-") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key=key, max_retries=0, timeout=PATIENCE
    )


async def test_openais_examples_of_files_work_unchanged(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mydata.jsonl").write_bytes(JSONL)
    async with official(cluster) as client:
        with (tmp_path / "mydata.jsonl").open("rb") as data:
            stored = await client.files.create(
                file=data,
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": 2592000},
            )
        assert stored.id.startswith("file-")
        assert (stored.filename, stored.bytes) == ("mydata.jsonl", len(JSONL))
        assert (stored.purpose, stored.status, stored.object) == ("batch", "processed", "file")
        assert stored.expires_at == stored.created_at + 2592000
        assert await client.files.retrieve(stored.id) == stored
        assert [each async for each in client.files.list(purpose="batch")] == [stored]
        content = await client.files.content(stored.id)
        assert content.read() == JSONL
        gone = await client.files.delete(stored.id)
        assert gone.deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await client.files.retrieve(stored.id)
        assert [each async for each in client.files.list()] == []


async def test_a_file_of_many_parts_comes_back_byte_for_byte(cluster: Cluster) -> None:
    data = random.Random(7).randbytes(5 * 1024 * 1024 + 17)
    async with official(cluster) as client:
        stored = await client.files.create(file=("größe.bin", data), purpose="user_data")
        assert stored.filename == "größe.bin"
        content = (await client.files.content(stored.id)).read()
        assert hashlib.sha256(content).digest() == hashlib.sha256(data).digest()
        await client.files.delete(stored.id)


async def test_lists_have_pages_and_an_order(cluster: Cluster) -> None:
    async with official(cluster, "pages") as client:
        made = [
            (await client.files.create(file=(f"{n}.txt", b"x"), purpose="evals")).id
            for n in range(5)
        ]
        first = await client.files.list(limit=2, order="asc")
        assert first.has_more
        both = [each.id async for each in client.files.list(limit=2, order="asc")]
        assert sorted(both) == sorted(made)
        down = [each.id async for each in client.files.list(limit=3, order="desc")]
        assert down == both[::-1]


async def test_a_file_of_another_key_is_as_unknown_as_none(cluster: Cluster) -> None:
    async with official(cluster, "mine") as mine, official(cluster, "theirs") as theirs:
        stored = await mine.files.create(file=("a.txt", b"secret"), purpose="user_data")
        for ask in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(stored.id)
        assert [each async for each in theirs.files.list()] == []
        assert (await mine.files.content(stored.id)).read() == b"secret"


FORM = {"content-type": "multipart/form-data; boundary=b"}


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch'
DATA = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\ndata'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (form(DATA), "purpose is required"),
        (form(DATA, PURPOSE.replace(b"batch", b"")), "purpose: '' is none of"),
        (form(DATA, PURPOSE.replace(b"batch", b"magic")), "purpose: 'magic' is none of"),
        (form(PURPOSE), "file is required"),
        (form(PURPOSE, DATA.replace(b'; filename="a"', b"")), "its part has no filename"),
        (form(PURPOSE, PURPOSE, DATA), "purpose may occur once"),
        (form(PURPOSE, DATA, DATA), "file may occur once"),
        (form(PURPOSE, DATA.removesuffix(b"data")), "the file is empty"),
        (form(PURPOSE, DATA)[:-6], "ends before its last boundary"),
        (b"", "ends before its last boundary"),
        (form(PURPOSE.replace(b"batch", b"b\xff"), DATA), "not text in UTF-8"),
    ],
)
async def test_a_bad_form_is_refused_and_leaves_nothing(
    cluster: Cluster, body: bytes, says: str
) -> None:
    headers = {**FORM, "authorization": "Bearer bad"}
    async with cluster.http() as http:
        answer = await http.post("/v1/files", content=body, headers=headers)
        listed = await http.get("/v1/files", headers=headers)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]
    assert listed.json()["data"] == []


async def test_a_field_that_is_too_large_is_refused(cluster: Cluster) -> None:
    body = form(PURPOSE.replace(b"batch", b"x" * 5000), DATA)
    async with cluster.http() as http:
        answer = await http.post("/v1/files", content=body, headers=FORM)
    assert "more than 4096 bytes" in error(answer, 413)["message"]


async def test_a_body_that_is_not_a_form_is_refused(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.post("/v1/files", json={"purpose": "batch"})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]


def upload_head(size: int) -> bytes:
    fields = ("POST /v1/files HTTP/1.1", "host: 127.0.0.1", "authorization: Bearer half")
    kind = "content-type: multipart/form-data; boundary=b"
    return "\r\n".join((*fields, kind, f"content-length: {size}", "", "")).encode()


async def test_a_file_that_is_too_large_is_refused_before_it_is_sent(cluster: Cluster) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
    writer.write(upload_head(2**30))
    await writer.drain()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body is larger than" in answer
    writer.close()


async def test_a_file_whose_upload_breaks_off_does_not_exist(cluster: Cluster) -> None:
    whole = form(PURPOSE, DATA.replace(b"data", b"x" * 300_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
    writer.write(upload_head(len(whole)) + whole[:-1000])
    await writer.drain()
    writer.close()
    async with official(cluster, "half") as client:
        assert [each async for each in client.files.list()] == []
    del reader


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=10001", "order=up", "after=file-nowhere"]
)
async def test_a_bad_page_is_refused(cluster: Cluster, query: str) -> None:
    async with cluster.http() as http:
        answer = await http.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_files_outlive_a_restart_of_everything(own_cluster: Cluster) -> None:
    own_cluster.up()
    await own_cluster.ready()
    async with official(own_cluster) as client:
        stored = await client.files.create(file=("a.jsonl", JSONL * 9000), purpose="batch")
        own_cluster.kill_everything()
        own_cluster.again("up")
        await own_cluster.ready()
        assert (await client.files.content(stored.id)).read() == JSONL * 9000
