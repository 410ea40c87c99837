"""Answers that are not text: byte for byte, and with the header fields that they came with."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from nebula.engines.simulated_vectors import packed_of, vector_of
from nebula.store.server import MAX_PAYLOAD
from tests.integration.asking import error
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

POOLING = "/pooling"
DIMENSIONS = 384
TEXTS = ["one", "two words"]


def asked(texts: list[str], form: str = "bytes") -> dict[str, Any]:
    return {"model": "embed", "input": texts, "encoding_format": form}


def packed(texts: list[str]) -> bytes:
    return b"".join(packed_of(vector_of(text, DIMENSIONS)) for text in texts)


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with an embedding model."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("embed", task="embedding", memory="64MiB")

    asyncio.run(load())
    return cluster


@pytest.fixture
async def http(served: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with served.http() as client:
        yield client


def is_whole(answer: httpx.Response, texts: list[str]) -> bool:
    """Return whether an answer has the bytes, the type and the field that the engine gave it."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    metadata = json.loads(answer.headers["metadata"])
    assert [each["shape"] for each in metadata["data"]] == [[DIMENSIONS]] * len(texts)
    return answer.content == packed(texts)


async def test_vectors_in_bytes_come_with_what_the_engine_says_of_them(
    http: httpx.AsyncClient,
) -> None:
    assert is_whole(await http.post(POOLING, json=asked(TEXTS)), TEXTS)


async def test_an_answer_that_is_given_again_is_the_same(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "bytes"}
    first = await http.post(POOLING, json=asked(TEXTS), headers=key)
    again = await http.post(POOLING, json=asked(TEXTS), headers=key)
    resumed = await http.get(f"/v1/streams/{first.headers['x-request-id']}")
    for answer in (first, again, resumed):
        assert is_whole(answer, TEXTS)
        assert answer.headers["metadata"] == first.headers["metadata"]


async def test_an_answer_of_several_messages_size_is_whole(http: httpx.AsyncClient) -> None:
    texts = [f"text {number}" for number in range(MAX_PAYLOAD // (4 * DIMENSIONS) + 10)]
    answer = await http.post(POOLING, json=asked(texts, "bytes_only"))
    assert answer.status_code == 200, answer.text
    assert "metadata" not in answer.headers
    assert answer.content == packed(texts)


async def test_header_fields_as_large_as_they_may_be_leave_room_for_the_bytes(
    http: httpx.AsyncClient,
) -> None:
    texts = [f"text {number}" for number in range(330)]
    answer = await http.post(POOLING, json=asked(texts))
    assert is_whole(answer, texts)
    assert len(answer.headers["metadata"]) > 32 * 1024


async def test_an_answer_whose_header_fields_are_larger_is_refused_with_a_way_out(
    http: httpx.AsyncClient,
) -> None:
    refused = await http.post(POOLING, json=asked(["one"] * 1000))
    said = error(refused, 422)
    assert said["code"] == "headers_too_large"
    assert "bytes_only" in said["message"]
