"""Clusters for the tests, which tests share or one may break, and OpenAI's client of one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.cluster import Cluster
from tests.integration.composed import Composed
from tests.integration.provider import Provider
from tests.integration.responding import client_of


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster under `nebula up` that all tests of a module share."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()
    assert not cluster.violations()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one test's own; nothing of it runs yet."""
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()
    assert not cluster.violations()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two gateways and a chat model that all tests of a module share."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))

    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")

    try:
        cluster.start_all()
        asyncio.run(load())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """All services of the compose file, in its order, that all tests of a module share."""
    cluster = Composed(tmp_path_factory.mktemp("compose"))
    try:
        cluster.run_all()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A provider of OpenID Connect that all tests of a module share."""
    made = Provider()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def client(served: Cluster) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client of what is served."""
    async with client_of(served.port) as client:
        yield client
