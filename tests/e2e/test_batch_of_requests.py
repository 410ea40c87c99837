"""A batch on real vLLM, with OpenAI's client: chats and embeddings."""

import json
from typing import Any, Literal

from openai.types import Batch

from tests.e2e.demo_cluster import CHAT, EMBEDDING, DemoCluster

OVER = ("completed", "failed", "expired", "cancelled")
Endpoint = Literal["/v1/chat/completions", "/v1/embeddings"]


def run(cluster: DemoCluster, endpoint: Endpoint, bodies: list[dict[str, Any]]) -> Batch:
    """Send a batch, and return it once it is over."""
    client = cluster.client
    lines = [
        {"custom_id": f"request-{number}", "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies, 1)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("batchinput.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    cluster.until(
        lambda: client.batches.retrieve(batch.id).status in OVER, f"the batch {batch.id} is over"
    )
    return client.batches.retrieve(batch.id)


def read(cluster: DemoCluster, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in cluster.client.files.content(file).text.splitlines()]


def test_chats_of_a_batch_are_answered_line_by_line(cluster: DemoCluster) -> None:
    texts = [f"What is {number} plus {number}?" for number in range(6)]
    bodies = [
        {
            "model": CHAT,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            "temperature": 0,
        }
        for text in texts
    ]
    batch = run(cluster, "/v1/chat/completions", [*bodies, {"model": CHAT, "messages": "no"}])
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (6, 1)
    results = read(cluster, batch.output_file_id)
    assert [each["custom_id"] for each in results] == [f"request-{n}" for n in range(1, 7)]
    for each in results:
        answer = each["response"]["body"]
        assert answer["object"] == "chat.completion"
        assert 0 < answer["usage"]["completion_tokens"] <= 8
        assert answer["choices"][0]["message"]["content"]
    (error,) = read(cluster, batch.error_file_id)
    assert error["custom_id"] == "request-7"
    assert error["response"]["status_code"] == 400


def test_embeddings_of_a_batch_are_those_of_single_requests(cluster: DemoCluster) -> None:
    texts = ["a cat", "a dog", "the sea", "a cat"]
    batch = run(cluster, "/v1/embeddings", [{"model": EMBEDDING, "input": t} for t in texts])
    assert batch.status == "completed"
    results = read(cluster, batch.output_file_id)
    vectors = [each["response"]["body"]["data"][0]["embedding"] for each in results]
    single = cluster.client.embeddings.create(
        model=EMBEDDING, input="the sea", encoding_format="float"
    )
    assert len(vectors) == 4
    assert max(abs(a - b) for a, b in zip(vectors[2], single.data[0].embedding, strict=True)) < 1e-3
