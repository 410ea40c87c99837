"""Real vLLM in trouble: refused models, and `kill -9` of everything."""

import asyncio
import json
import os
import signal
import threading
from functools import partial

import psutil
import pytest

from nebula.cli.cluster import joined
from nebula.events.vocabulary import EngineFailed, EngineReady, EngineStarted, Event
from tests.e2e.demo_cluster import CHAT, COLD_START, EMBEDDING, DemoCluster

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


def history(cluster: DemoCluster, replica: str) -> list[Event]:
    """Return everything the log holds about a replica."""

    async def read() -> list[Event]:
        async with joined(f"nats://127.0.0.1:{cluster.nats_port}") as projection:
            entries = await projection.log.read()
        return [entry.content for entry in entries if entry.id == replica]  # type: ignore[misc]

    return asyncio.run(read())


def chat(cluster: DemoCluster) -> str | None:
    answer = cluster.client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
    )
    return answer.choices[0].message.content


def stands(cluster: DemoCluster, identity: str, word: str) -> bool:
    return bool(cluster.model(identity)["status"]["phase"] == word)


class Traffic:
    """Twenty embedding requests a second in the background, and what came of them.

    Paced, because two cores that are kept busy would starve the engines that start beside them.
    """

    def __init__(self, cluster: DemoCluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failed: list[str] = []

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self._cluster.client.embeddings.create(model=EMBEDDING, input="traffic")
                self.answered += 1
            except Exception as error:
                self.failed.append(repr(error))


def test_a_model_that_vllm_refuses_fails_with_vllm_s_reason_and_the_others_go_on(
    cluster: DemoCluster,
) -> None:
    with Traffic(cluster) as traffic:
        requests: dict[str, dict[str, object]] = {
            "missing": {"source": "/does/not/exist", "memory": "2GiB"},
            "refused": {
                "source": str(cluster.demo / CHAT),
                "memory": "2GiB",
                "options": {"max-model-len": 999999999},
            },
        }
        for identity, request in requests.items():
            answer = cluster.http.post("/admin/models", json={"id": identity, **request})
            assert answer.status_code == 202
        for identity, word in (("missing", "unschedulable"), ("refused", "failed")):
            cluster.until(partial(stands, cluster, identity, word), f"{identity} is {word}")
    assert not traffic.failed
    assert traffic.answered > 10

    missing = cluster.model("missing")["status"]["detail"]
    assert "there is no /does/not/exist on this node" in missing
    refused = cluster.model("refused")["status"]["detail"]
    assert "max_model_len (999999999) is greater than the derived max_model_len" in refused
    last = history(cluster, "refused-0")[-1]
    assert isinstance(last, EngineFailed)
    assert last.exit_code == 1
    assert last.retry_in is None
    assert any("max_model_len" in line for line in last.log_tail)

    answer = cluster.http.post(
        "/v1/chat/completions",
        json={"model": "refused", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert answer.status_code == 503
    assert "max_model_len" in answer.json()["error"]["message"]
    for identity in ("missing", "refused"):
        assert cluster.http.delete(f"/admin/models/{identity}").status_code == 202


def test_after_kill_9_of_the_node_traffic_goes_on_and_the_next_node_adopts_both_engines(
    cluster: DemoCluster,
) -> None:
    before = cluster.engine_pids()
    assert set(before) == {f"{CHAT}-0", f"{EMBEDDING}-0"}
    started = len(history(cluster, f"{CHAT}-0"))
    node = cluster.child("node")
    with Traffic(cluster) as traffic:
        node.kill()
        cluster.until(
            lambda: cluster.child("node").pid != node.pid and traffic.answered > 20,
            "a new node process runs",
        )
        log = cluster.folder / "logs" / "node.log"
        cluster.until(
            lambda: log.read_text().count(f"adopted {CHAT}-0") == 1, "the engines are adopted"
        )
    assert not traffic.failed
    assert cluster.engine_pids() == before
    assert len(history(cluster, f"{CHAT}-0")) == started
    assert chat(cluster) == "The capital of France is Paris."


def test_after_kill_9_of_vllm_it_is_reported_and_restarted_and_its_stream_goes_on(
    cluster: DemoCluster,
) -> None:
    replica = f"{CHAT}-0"
    pid = cluster.engine_pids()[replica]
    own = psutil.Process(pid).ppid() == cluster.child("node").pid
    how = "killed by signal 9" if own else "it was started before this node process"
    tokens = 300
    heard: list[str] = []

    def stream() -> None:
        body = {
            "model": CHAT,
            "messages": [{"role": "user", "content": "Tell a story."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "max_tokens": tokens,
        }
        with cluster.http.stream("POST", "/v1/chat/completions", json=body, timeout=600) as answer:
            heard.extend(line for line in answer.iter_lines() if line)

    streaming = threading.Thread(target=stream)
    streaming.start()
    cluster.until(lambda: len(heard) > 20, "the stream is in the middle of its answer")
    os.kill(pid, signal.SIGKILL)

    cluster.until(lambda: cluster.engine_pids().get(replica, pid) != pid, "another engine is ready")
    streaming.join(120)
    assert not streaming.is_alive()
    assert heard[-1] == "data: [DONE]"
    assert json.loads(heard[-2].removeprefix("data: "))["usage"]["completion_tokens"] == tokens

    cluster.await_served()
    tail = [event for event in history(cluster, replica) if isinstance(event, EngineFailed)][-1]
    assert how in tail.reason
    assert tail.retry_in is not None
    assert chat(cluster) == "The capital of France is Paris."


def test_after_kill_9_of_everything_the_same_is_served_from_the_same_places(
    cluster: DemoCluster,
) -> None:
    before, ended = cluster.places(), cluster.engine_pids()
    cluster.kill_everything()
    cluster.up(demo=False)
    cluster.until(  # the log has the engines that were killed until the node has looked for them
        lambda: (
            cluster.engine_pids().keys() == ended.keys()
            and not set(cluster.engine_pids().values()) & set(ended.values())
        ),
        "other engines serve",
        COLD_START,
    )
    cluster.await_served()

    assert cluster.places() == before
    assert chat(cluster) == "The capital of France is Paris."
    events = history(cluster, f"{CHAT}-0")
    last_start = max(i for i, event in enumerate(events) if isinstance(event, EngineStarted))
    assert isinstance(events[last_start + 1], EngineReady)
