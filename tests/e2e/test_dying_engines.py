"""Two replicas of real vLLM: kill -9 of the one that answers, and the answer is the same."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.demo_cluster import CHAT, DemoCluster

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

TWINS = "twins"
TOKENS = 150
COUNTING = "Write the numbers from 1 to 200, separated by commas."
"""Of each token the next best is far less likely. In a story two may be as likely, and then what
else is computed in the same batch says which of them it is."""


@pytest.fixture(scope="module")
def twins(cluster: DemoCluster) -> Iterator[DemoCluster]:
    """Two small replicas of the chat model beside the demo, for these tests alone."""
    request = {
        "id": TWINS,
        "source": str(cluster.demo / CHAT),
        "replicas": 2,
        "memory": "2GiB",
        "options": {"max-model-len": 512, "enforce-eager": True},
    }
    assert cluster.http.post("/admin/models", json=request).status_code == 202
    cluster.until(
        lambda: {f"{TWINS}-0", f"{TWINS}-1"} <= set(cluster.engine_pids()), "both twins are ready"
    )
    yield cluster
    assert cluster.http.delete(f"/admin/models/{TWINS}").status_code == 202
    cluster.until(
        lambda: cluster.http.get(f"/admin/models/{TWINS}").status_code == 404, "they are unloaded"
    )


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
    """Give the pid of the twin whose vLLM has a request."""
    for replica in cluster.http.get("/admin/replicas").json():
        if replica["model"] == TWINS:
            port = replica["engine"]["port"]
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            for line in metrics.splitlines():
                if line.startswith("vllm:num_requests_running") and not line.endswith(" 0.0"):
                    return int(replica["engine"]["pid"])
    raise LookupError("no twin has a request")


def test_a_greedy_stream_whose_engine_is_killed_equals_the_undisturbed_one(
    twins: DemoCluster,
) -> None:
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
