"""Bad input through a gateway to real vLLM: a 4xx in the form of the path; the engines go on."""

import json
from typing import Any

import httpx
import pytest

from nebula.http.document.entries import ENTRIES
from tests.e2e.demo_cluster import DemoCluster
from tests.fuzz import bodies
from tests.fuzz.verdicts import Verdicts, speaks_anthropic

pytestmark = pytest.mark.anyio

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
MODELS = {"chat": CHAT, "embed": EMBEDDING}
PATHS = ("/v1/chat/completions", "/v1/messages", "/tokenize", "/v1/embeddings", "/rerank")
EVERY = 3
"""Of the values of other types, one of this many is tried: valid requests take an engine's time."""
SECONDS = 2.0
"""How long a request that turns out to be valid may be answered."""


@pytest.mark.parametrize("path", PATHS)
async def test_bad_input_is_refused_and_the_engine_goes_on(cluster: DemoCluster, path: str) -> None:
    verdicts = Verdicts()
    asked: dict[str, Any] = ENTRIES[f"POST {path}"].example
    example = {**asked, "model": MODELS[asked["model"]]}
    limit = {"max_tokens": 2} if "max_tokens" in example else {}
    fields = {"content-type": "application/json", "x-request-timeout": str(SECONDS)}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.port}", timeout=60, trust_env=False
    ) as http:
        good = json.dumps({**example, **limit})
        types = [*bodies.of_types({**example, **limit})][::EVERY]
        for bad in (*bodies.of_json({**example, **limit}), *types):
            answer = await http.post(path, content=bad.body, headers=fields)
            if answer.status_code != 504:
                verdicts.take(
                    "bodies",
                    f"{path}: {bad.name}",
                    answer.status_code,
                    answer.content,
                    anthropic=speaks_anthropic(path),
                    refused=bad.refused,
                )
        whole = await http.post(path, content=good, headers={"content-type": "application/json"})
    assert not verdicts.faults, verdicts.faults
    assert whole.status_code == 200
