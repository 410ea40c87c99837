"""One cluster for all end-to-end tests, as `make run` starts it: real vLLM, real weights."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest

from tests.e2e.demo_cluster import COLD_START, DemoCluster

DEMO = Path(__file__).parents[2] / ".demo"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoCluster]:
    """The demo, served; every process of it has ended when the tests are over."""
    assert DEMO.exists(), "the demo models are missing: run `make demo-models`"
    cluster = DemoCluster(DEMO, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up()
        cluster.await_served(COLD_START)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def claude(cluster: DemoCluster) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client, pointed at the gateway."""
    base = f"http://127.0.0.1:{cluster.port}"
    with anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, timeout=120) as client:
        yield client
