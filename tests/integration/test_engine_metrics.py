"""The metrics of a simulated engine, read by a real Prometheus as boards for vLLM ask for them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from nebula.store.server import die_with_parent
from tests.integration.asking import CHAT, chat, said
from tests.integration.prometheus import prometheus, until
from tests.ports import free_port

ASKED = (
    "sum by (le) (vllm:time_to_first_token_seconds_bucket)",
    "histogram_quantile(0.9, sum by (le) (vllm:e2e_request_latency_seconds_bucket)) >= 0",
    "sum by (finished_reason) (vllm:request_success_total) > 0",
    "vllm:generation_tokens_total == 16",
    "vllm:kv_cache_usage_perc",
)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a simulated engine."""
    port = free_port()
    line = [sys.executable, "-m", "nebula.engines.simulated", "--model", "m", "--port", str(port)]
    line += ["--host", "127.0.0.1"]
    with (tmp_path / "engine.log").open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, preexec_fn=die_with_parent)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_prometheus_reads_a_simulated_engine(address: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=f"http://{address}", trust_env=False) as http:

        def healthy() -> bool:
            try:
                return http.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        until(healthy, lambda: "the engine is healthy")
        assert said(http.post(CHAT, json=chat("m")))
    config = tmp_path / "prometheus.json"
    jobs = [{"job_name": "engines", "static_configs": [{"targets": [address]}]}]
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    with prometheus(tmp_path / "prometheus", config) as server:
        for expression in ASKED:
            until(partial(server.query, expression), partial(str, expression))
