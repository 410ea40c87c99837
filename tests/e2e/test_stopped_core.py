"""Real vLLM whose core is stopped while its API server goes on answering `/health`."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.demo_cluster import CHAT, COLD_START, DemoCluster

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1200)]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[DemoCluster]:
    """One engine, and a node that ends it after 45 seconds without progress."""
    cluster = DemoCluster(Path(__file__).parents[2] / ".demo", tmp_path)
    request = {
        "id": "alone",
        "source": str(cluster.demo / CHAT),
        "memory": "2GiB",
        "options": {"max-model-len": 512, "enforce-eager": True},
    }
    try:
        cluster.up("--stall-limit", "45", demo=False)
        assert cluster.http.post("/admin/models", json=request).status_code == 202
        cluster.until(lambda: "alone-0" in cluster.engine_pids(), "it is ready", COLD_START)
        yield cluster
    finally:
        cluster.end()


def ask(cluster: DemoCluster, seconds: int) -> int:
    body = {"model": "alone", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    patience = {"X-Request-Timeout": str(seconds)}
    return cluster.http.post("/v1/chat/completions", json=body, headers=patience).status_code


def test_an_engine_whose_core_is_stopped_is_ended_and_started_anew(alone: DemoCluster) -> None:
    assert ask(alone, 110) == 200
    pid = alone.engine_pids()["alone-0"]
    family = psutil.Process(pid).children(recursive=True)
    (core,) = [each for each in family if "EngineCore" in " ".join(each.cmdline())]
    core.send_signal(signal.SIGSTOP)
    for _ in range(2):
        assert ask(alone, 4) == 504  # clients that give up do not wipe the evidence out
    alone.until(lambda: bool(alone.replica("alone-0")["engine"]["stalled"]), "it is told")
    alone.until(
        lambda: alone.engine_pids().get("alone-0", pid) != pid, "it is started anew", COLD_START
    )
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
    assert ask(alone, 110) == 200
