"""A third model on real vLLM, loaded by plain bytes: its engines are killed, and stand still."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e.demo_cluster import CHAT, COLD_START, DemoCluster, metrics_of

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1200)]

TWINS = "twins"
TOKENS = 150
COUNTING = "Write the numbers from 1 to 200, separated by commas."
"""Of each token the next best is far less likely. In a story two may be as likely, and then what
else is computed in the same batch says which of them it is."""


@pytest.fixture(scope="module")
def twins(cluster: DemoCluster) -> Iterator[DemoCluster]:
    """Two small replicas of the chat model beside the demo, for these tests alone."""
    request = {
        "source": str(cluster.demo / CHAT),
        "replicas": 2,
        "memory": "2GiB",
        "options": {"max-model-len": 512, "enforce-eager": True},
    }
    load = f"nebula.events.model.{TWINS}.ModelLoadRequested"
    cluster.publish(load, json.dumps(request).encode())
    scaled(cluster, 2)
    yield cluster
    cluster.publish(f"nebula.events.model.{TWINS}.ModelUnloadRequested", b"")
    cluster.until(
        lambda: cluster.http.get(f"/admin/models/{TWINS}").status_code == 404, "they are unloaded"
    )
    assert not [found for each in (0, 1) for found in cluster.engine_processes(f"{TWINS}-{each}")]


def ready(cluster: DemoCluster) -> dict[str, int]:
    """Return the pids of the twins that serve, by replica."""
    return {name: pid for name, pid in cluster.engine_pids().items() if name.startswith(TWINS)}


def scaled(cluster: DemoCluster, replicas: int) -> None:
    """Wait until so many twins are there, and all of them serve."""
    cluster.until(
        lambda: (
            len(cluster.model(TWINS)["replicas"]) == replicas and len(ready(cluster)) == replicas
        ),
        f"{replicas} of the twins serve",
        COLD_START,
    )


def scale(cluster: DemoCluster, replicas: int) -> None:
    """Ask for so many twins, and wait for them."""
    answer = cluster.http.patch(f"/admin/models/{TWINS}", json={"replicas": replicas})
    assert answer.status_code == 202, answer.text
    scaled(cluster, replicas)


def ask(cluster: DemoCluster, seconds: int) -> int:
    body = {"model": TWINS, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    limit = {"X-Request-Timeout": str(seconds)}
    return cluster.http.post("/v1/chat/completions", json=body, headers=limit).status_code


class Story:
    """A greedy stream in the background; `chunks` are what has come of it."""

    def __init__(self, cluster: DemoCluster) -> None:
        self._http = cluster.http
        self.chunks: list[dict[str, Any]] = []
        self.whole = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Story":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(120)

    def _run(self) -> None:
        body = {
            "model": TWINS,
            "messages": [{"role": "user", "content": COUNTING}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    self.whole = True
                elif line:
                    self.chunks.append(json.loads(line.removeprefix("data: ")))

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self._choices())

    @property
    def ends(self) -> list[str]:
        return [choice["finish_reason"] for choice in self._choices() if choice["finish_reason"]]

    @property
    def roles(self) -> int:
        return sum("role" in choice["delta"] for choice in self._choices())

    def _choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]


def who_has_it(cluster: DemoCluster) -> int:
    """Return the pid of the twin whose vLLM has a request."""
    for replica in cluster.http.get("/admin/replicas").json():
        if replica["model"] == TWINS:
            metrics = metrics_of(replica["engine"])
            for line in metrics.splitlines():
                if line.startswith("vllm:num_requests_running") and not line.endswith(" 0.0"):
                    return int(replica["engine"]["pid"])
    raise LookupError("no twin has a request")


def test_a_model_that_plain_bytes_have_loaded_answers(twins: DemoCluster) -> None:
    assert ask(twins, 110) == 200


def test_a_greedy_stream_whose_engine_is_killed_equals_the_undisturbed_one(
    twins: DemoCluster,
) -> None:
    scale(twins, 2)
    with Story(twins) as undisturbed:
        pass
    with Story(twins) as story:
        twins.until(lambda: len(story.chunks) > 20, "the stream is in the middle of its answer")
        os.kill(who_has_it(twins), signal.SIGKILL)
        assert not story.ends, "it was killed too late"
    assert undisturbed.whole
    assert story.whole
    assert story.text == undisturbed.text
    assert story.ends == undisturbed.ends == ["length"]
    assert story.roles == 1
    assert len({chunk["id"] for chunk in story.chunks}) == 1
    usage = story.chunks[-1]["usage"]
    assert usage["completion_tokens"] == TOKENS
    assert usage["prompt_tokens"] == undisturbed.chunks[-1]["usage"]["prompt_tokens"]


def test_an_engine_whose_core_is_stopped_is_ended_and_started_anew(twins: DemoCluster) -> None:
    """Its API server goes on answering `/health`."""
    scale(twins, 1)
    [(replica, pid)] = ready(twins).items()
    assert ask(twins, 110) == 200
    family = psutil.Process(pid).children(recursive=True)
    (core,) = [each for each in family if "EngineCore" in " ".join(each.cmdline())]
    core.send_signal(signal.SIGSTOP)
    for _ in range(2):
        assert ask(twins, 4) == 504  # clients that give up do not wipe the evidence out
    twins.until(lambda: bool(twins.replica(replica)["engine"]["stalled"]), "it is told")
    twins.until(
        lambda: twins.engine_pids().get(replica, pid) != pid, "it is started anew", COLD_START
    )
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
    assert ask(twins, 110) == 200
