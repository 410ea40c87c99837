"""What the simulated engine says has the shape of what vLLM says to the same request.

Both are started with the same command line, and what is compared is everything but the values:
status, names and kinds of all fields, the order of events, and whose fault an error is.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import DEMO
from tests.e2e.demo_cluster import ONE_CLASS
from tests.ports import free_port

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

VLLM = "vllm.entrypoints.openai.api_server"
SIMULATED = "nebula.engines.simulated"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other engines may run on the same cores
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

Request = tuple[str, dict[str, Any]]

MODEL = "small"
CHAT = DEMO / "smollm2-135m-instruct"
EMBEDDING = DEMO / "all-minilm-l6-v2"
# MiniLM is an embedding model whatever is asked of it, so that the chat model is the classifier.
CLASSIFIER = ["--runner", "pooling", "--convert", "classify", "--hf-overrides"]
ENGINES = {
    "chat": [str(CHAT), "--max-model-len", "512"],
    "embedding": [str(EMBEDDING), "--max-model-len", "256", "--runner", "pooling"],
    "reranker": [str(CHAT), "--max-model-len", "512", *CLASSIFIER, json.dumps(ONE_CLASS)],
}

SAID = [{"role": "user", "content": "Say hi"}]
LIMITED = {"max_tokens": 4, "temperature": 0}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
LONG = [{"role": "user", "content": "a " * 600}]

FOR_ALL: list[Request] = [
    ("/tokenize", {"prompt": "Say hi"}),
    ("/tokenize", {"prompt": "Say hi", "return_token_strs": True}),
    ("/tokenize", {}),
    ("/tokenize", {"prompt": "a", "model": "big"}),
    ("/detokenize", {"tokens": [5, 6]}),
    ("/detokenize", {"tokens": [-5]}),
    ("/no/such/path", {}),
    ("/v1/models", {}),
]
REQUESTS: dict[str, list[Request]] = {
    "chat": [
        *FOR_ALL,
        ("/tokenize", {"messages": SAID}),
        ("/v1/responses", {"input": "Say hi", "max_output_tokens": 4, "temperature": 0}),
        ("/v1/responses", {"input": "Say hi", "max_output_tokens": 4, "stream": True}),
        (
            "/v1/responses",
            {
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
                "instructions": "Be brief.",
                "max_output_tokens": 4,
                "metadata": {"a": "b"},
                "tools": [{**TOOL, "strict": False}],
                "tool_choice": "none",
            },
        ),
        ("/v1/responses", {}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses", {"input": "a", "model": "big"}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 0}),
        ("/v1/responses", {"input": "a " * 600}),
        ("/v1/responses", {"input": "a", "background": True}),
        ("/v1/responses", {"input": "a", "background": True, "store": False}),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_x"}),
        ("/v1/responses/resp_x/cancel", {}),
        ("/v1/messages", {"messages": SAID, **LIMITED}),
        ("/v1/messages", {"messages": SAID, "stream": True, **LIMITED}),
        (
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
                "system": "Be brief.",
                "tools": [{"name": "f", "input_schema": {"properties": {}}}],
                "tool_choice": {"type": "none"},
                **LIMITED,
            },
        ),
        ("/v1/messages", {"messages": SAID}),
        ("/v1/messages", {"messages": SAID, "max_tokens": 0}),
        ("/v1/messages", {"messages": [], **LIMITED}),
        ("/v1/messages", {"messages": LONG, **LIMITED}),
        ("/v1/messages", {"messages": SAID, "model": "big", **LIMITED}),
        ("/v1/messages/count_tokens", {"messages": SAID}),
        ("/v1/messages/count_tokens", {"messages": SAID, "model": "big"}),
        ("/v1/chat/completions/batch", {"messages": [SAID, SAID], **LIMITED}),
        ("/v1/chat/completions/batch", {"messages": [SAID], "n": 2}),
        ("/v1/chat/completions/batch", {"messages": SAID}),
        ("/v1/chat/completions/batch", {"messages": []}),
        ("/generative_scoring", {"query": "Is it", "items": ["a", "b"], "label_token_ids": [5]}),
        ("/generative_scoring", {"query": "Is it", "items": [], "label_token_ids": [5]}),
        ("/generative_scoring", {"query": "Is it", "items": ["a"], "label_token_ids": []}),
        ("/pooling", {"input": "a"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ],
    "embedding": [
        *FOR_ALL,
        ("/v1/embeddings", {"input": ["a", "b"]}),
        ("/v1/embeddings", {"input": "a", "model": "big"}),
        ("/v2/embed", {"texts": ["a", "b"]}),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["binary", "ubinary", "base64"]}),
        ("/v2/embed", {"texts": ["a"], "output_dimension": 8}),
        ("/v2/embed", {}),
        ("/classify", {"input": "a"}),
    ],
    "reranker": [
        *FOR_ALL,
        ("/tokenize", {"messages": SAID}),
        ("/classify", {"input": ["a", "b"]}),
        ("/classify", {"messages": SAID}),
        ("/classify", {"input": []}),
        ("/classify", {}),
        ("/v1/embeddings", {"input": "a"}),
    ],
}
SCORES: list[Request] = [
    ("/pooling", {"input": ["a", "b"]}),
    ("/pooling", {"input": "a", "encoding_format": "base64"}),
    ("/pooling", {"input": "a", "encoding_format": "bytes"}),
    ("/pooling", {"input": "a", "task": "score"}),
    ("/pooling", {"input": "a", "normalize": True}),
    ("/pooling", {}),
    ("/score", {"text_1": "a cat", "text_2": ["a dog", "a cat"]}),
    ("/v1/score", {"queries": ["a", "b"], "documents": ["c", "d"]}),
    ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
    ("/score", {"text_1": "a", "text_2": []}),
    ("/score", {}),
    ("/rerank", {"query": "a cat", "documents": ["a dog", "a cat", "the sun"], "top_n": 2}),
    ("/v1/rerank", {"query": "a cat", "documents": "a dog"}),
    ("/v2/rerank", {"query": "a cat", "documents": ["a dog"]}),
    ("/rerank", {"query": "a", "documents": []}),
    ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}),
    ("/rerank", {"query": "a", "documents": ["b"], "model": "big"}),
    ("/v1/chat/completions", {"messages": SAID}),
]
REQUESTS["embedding"] += SCORES
REQUESTS["reranker"] += SCORES


class Engine(NamedTuple):
    """A process of an engine, a client of it, and its log."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def healthy(self) -> httpx.Client:
        """Wait until it serves, and return the client."""
        while not _healthy(self.http):
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
            time.sleep(0.2)
        return self.http


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Engine]]:
    """Start all engines at once, by module and kind: each start keeps one core busy."""
    assert DEMO.exists(), "the demo models are missing: run `make demo-models`"
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as started:
        yield {
            (module, kind): started.enter_context(serving(module, kind, folder))
            for module in (VLLM, SIMULATED)
            for kind in ENGINES
        }


@contextmanager
def serving(module: str, kind: str, folder: Path) -> Iterator[Engine]:
    """An engine that has begun to start; all of its processes end with it."""
    port = free_port()
    line = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    line += ["--served-model-name", MODEL, "--kv-cache-memory-bytes", str(256 << 20)]
    line += ["--distributed-executor-backend", "uni"]
    line += ["--enforce-eager", "--model", *ENGINES[kind]]
    log = folder / f"{module}-{kind}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            line, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT}
        )
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as http:
            yield Engine(process, http, log)
    finally:
        process.terminate()  # vLLM's own way to end its processes
        process.wait()


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def shape(value: Any) -> Any:
    """What is left of a JSON value without its texts and numbers; of like items one."""
    if isinstance(value, dict):
        return {key: shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        items = [shape(item) for item in value]
        return [item for at, item in enumerate(items) if item not in items[:at]]
    if isinstance(value, bool) or value is None:
        return value
    return "number" if isinstance(value, int | float) else "text"


def told(answer: httpx.Response) -> list[Any]:
    """The shape of an answer; of an error also whose fault it is, of a stream also its order."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    head: list[Any] = [answer.status_code, kind]
    if kind == "text/event-stream":
        for event in answer.text.split("\n\n"):
            lines = event.strip().split("\n")
            data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            found = [line for line in lines if line.startswith("event: ")] + [shape(data)]
            if found != head[-1]:  # how many tokens there are is the model's
                head.append(found)
    elif kind == "application/json":
        body = answer.json()
        head.append(shape(body))
        error = body.get("error")
        if isinstance(error, dict):
            head.append({key: error.get(key) for key in ("type", "param", "code")})
    elif "metadata" in answer.headers:
        head.append(shape(json.loads(answer.headers["metadata"])))
    return head


def metrics(http: httpx.Client) -> set[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """Return kind, name and labels of every line of an engine's metrics."""
    return {
        (family.type, sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


@pytest.mark.parametrize("kind", ENGINES)
def test_the_simulated_engine_answers_in_the_shapes_of_vllm(
    kind: str, engines: dict[tuple[str, str], Engine]
) -> None:
    differences = []
    simulated, real = (engines[module, kind].healthy() for module in (SIMULATED, VLLM))
    for path, fields in REQUESTS[kind]:
        method, body = ("GET", None) if path == "/v1/models" else ("POST", fields)
        if body is not None:
            body = {"model": MODEL, **body}
        ours, theirs = (told(http.request(method, path, json=body)) for http in (simulated, real))
        if ours != theirs:
            differences.append(f"{path} {json.dumps(fields)[:200]}\n  {ours}\n  {theirs}")
    unknown = metrics(simulated) - metrics(real)  # vLLM has more of them
    differences += [f"vLLM has no metric {each}" for each in sorted(unknown)]
    assert not differences, "\n".join(differences)
