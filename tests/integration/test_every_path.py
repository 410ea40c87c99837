"""Every path that clients of vLLM use, through a gateway: answers, streams, errors, deaths."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from nebula.events.endpoints import ENDPOINTS
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "one two three"}]
PAIR = {"query": "one", "documents": ["one", "two"]}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/chat/completions": ("chat", {"messages": MESSAGES}),
    "/v1/chat/completions/batch": ("chat", {"messages": [MESSAGES, MESSAGES]}),
    "/v1/completions": ("chat", {"prompt": "one two three"}),
    "/v1/responses": ("chat", {"input": "one two three"}),
    "/v1/messages": ("chat", {"messages": MESSAGES, "max_tokens": 5}),
    "/v1/messages/count_tokens": ("chat", {"messages": MESSAGES}),
    "/generative_scoring": ("chat", {"query": "a", "items": ["b"], "label_token_ids": [1, 2]}),
    "/v1/embeddings": ("embed", {"input": "one"}),
    "/v2/embed": ("embed", {"texts": ["one"], "embedding_types": ["float"]}),
    "/pooling": ("embed", {"input": "one"}),
    "/classify": ("classes", {"input": ["one", "two"]}),
    "/score": ("embed", {"text_1": "one", "text_2": ["two"]}),
    "/v1/score": ("classes", {"queries": "one", "documents": ["two"]}),
    "/rerank": ("embed", PAIR),
    "/v1/rerank": ("classes", PAIR),
    "/v2/rerank": ("embed", PAIR),
    "/v1/audio/transcriptions": ("ears", {}),
    "/v1/audio/translations": ("ears", {}),
    "/tokenize": ("chat", {"prompt": "one two"}),
    "/detokenize": ("embed", {"tokens": [1, 2]}),
}
"""For each path a model that serves it, and the rest of a request."""

SOUND = {"file": ("sound.wav", b"RIFF and so on", "audio/wav")}


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with a model of each kind."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", replicas=2, memory="64MiB")
        await cluster.load("embed", task="embedding", memory="64MiB")
        await cluster.load("classes", task="classify", memory="64MiB")
        hears = {"simulate-tasks": "transcription"}
        await cluster.load("ears", task="transcription", memory="64MiB", options=hears)

    asyncio.run(load())
    return cluster


@pytest.fixture
async def http(served: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with served.http() as client:
        yield client


def request(path: str, **fields: Any) -> dict[str, Any]:
    """Return what httpx's `post` sends: JSON, or a form with a file where the path takes one."""
    model, body = BODIES[path]
    asked = {"model": model, **body, **fields}
    return {"data": asked, "files": SOUND} if ENDPOINTS[path].form else {"json": asked}


def test_the_table_of_this_test_has_every_path() -> None:
    assert BODIES.keys() == ENDPOINTS.keys()


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_model_of_its_task_answers(path: str, http: httpx.AsyncClient) -> None:
    answer = await http.post(path, **request(path))
    assert answer.status_code == 200, answer.text
    assert answer.json()
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_errors_of_gateway_and_engine_have_the_form_of_the_path(
    path: str, http: httpx.AsyncClient
) -> None:
    unknown = await http.post(path, **request(path, model="nothing"))
    broken = await http.post(path, content=b"{", headers={"content-type": "application/json"})
    method = await http.get(path)
    unread = 415 if ENDPOINTS[path].form else 400
    assert (unknown.status_code, broken.status_code, method.status_code) == (404, unread, 405)
    for refused in (unknown, broken, method):
        said = refused.json()
        assert said["error"]["message"]
        assert (said.get("type") == "error") == (ENDPOINTS[path].dialect == "anthropic")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_model_of_another_task_is_refused_with_what_it_serves(
    path: str, http: httpx.AsyncClient
) -> None:
    other = "embed" if BODIES[path][0] in ("chat", "ears") else "chat"
    refused = await http.post(path, **request(path, model=other))
    if path in ("/tokenize", "/detokenize"):
        assert refused.status_code == 200
        return
    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert message.startswith(f"'{other}' does not serve {path}: it serves /")
    assert path not in message.partition("it serves ")[2].split(", ")


async def test_an_alias_stands_for_its_model_on_every_path(
    served: Cluster, http: httpx.AsyncClient
) -> None:
    async with served.http() as admin:
        made = await admin.put("/admin/aliases/other", json={"targets": [{"model": "chat"}]})
        assert made.status_code == 202, made.text
        await served.poll(lambda: _is_known(admin, "other"), "the gateway knows the alias")
    for path, (model, _) in BODIES.items():
        if model == "chat":
            answer = await http.post(path, **request(path, model="other"))
            assert answer.status_code == 200, (path, answer.text)
            assert answer.headers["x-nebula-model"] == "chat"


async def _is_known(http: httpx.AsyncClient, name: str) -> bool:
    return (await http.get(f"/v1/models/{name}")).status_code == 200


def lines(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream's events."""
    data = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(each) for each in data if each != "[DONE]"]


async def test_a_streamed_response_ends_with_its_completion(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/responses", **request("/v1/responses", stream=True))
    events = lines(answer.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] in ("response.completed", "response.incomplete")


@pytest.fixture
async def mortal(own_cluster: Cluster) -> Cluster:
    """A cluster of one test's own, with a chat model on two engines."""
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load("chat", replicas=2, memory="64MiB")
    return own_cluster


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_a_stream_whose_engine_dies_ends_with_its_protocol_s_error(
    path: str, mortal: Cluster
) -> None:
    for replica in ("chat-0", "chat-1"):
        await mortal.tell_engine(replica, token=0.2)
    most: dict[str, Any] = {"max_tokens": 400}
    if path == "/v1/responses":
        most = {"max_output_tokens": 400, "ignore_eos": True}
    asked = request(path, stream=True, **most)
    said = ""
    async with mortal.http() as http, http.stream("POST", path, **asked) as answer:
        killed = False
        async for text in answer.aiter_text():
            said += text
            if not killed and said.count("delta") > 8:
                killed = True
                await _kill_the_busy_one(mortal)
    last = lines(said)[-1]
    assert killed
    assert said.rstrip().splitlines()[-2] == "event: error"
    assert last["type"] == "error"
    if path == "/v1/responses":
        assert last["sequence_number"] == len(lines(said)) - 1
        assert last["message"]
    else:
        assert last["error"]["type"] == "overloaded_error"


async def _kill_the_busy_one(cluster: Cluster) -> None:
    for replica in ("chat-0", "chat-1"):
        if (await cluster.engine_says(replica))["running"]:
            os.kill((await cluster.engine(replica)).pid, signal.SIGKILL)
            return  # the request may run on the other one soon


async def test_an_answer_that_was_not_begun_comes_whole_from_another_engine(
    mortal: Cluster,
) -> None:
    for replica in ("chat-0", "chat-1"):
        await mortal.tell_engine(replica, first_token=1.0)

    async def runs() -> bool:
        counts = [(await mortal.engine_says(each))["running"] for each in ("chat-0", "chat-1")]
        return sum(counts) == 1

    async with mortal.http() as http:
        asked = asyncio.create_task(http.post("/v1/responses", **request("/v1/responses")))
        await mortal.poll(runs, "an engine works on it")
        await _kill_the_busy_one(mortal)
        answer = await asked
    assert answer.status_code == 200, answer.text


async def test_the_clients_of_both_companies_take_answers_and_errors_for_their_own(
    served: Cluster,
) -> None:
    base = f"http://127.0.0.1:{served.port}"
    async with (
        openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as one,
        anthropic.AsyncAnthropic(base_url=base, api_key="none", max_retries=0) as two,
    ):
        response = await one.responses.create(model="chat", input="one two three")
        assert response.output_text
        message = await two.messages.create(
            model="chat", max_tokens=5, messages=[{"role": "user", "content": "one"}]
        )
        assert message.content
        with pytest.raises(openai.NotFoundError):
            await one.responses.create(model="nothing", input="one")
        with pytest.raises(anthropic.NotFoundError) as refused:
            await two.messages.create(
                model="nothing", max_tokens=5, messages=[{"role": "user", "content": "one"}]
            )
        assert "does not exist" in str(refused.value)


@pytest.mark.parametrize(
    "path", ["/collective_rpc", "/sleep", "/v1/load_lora_adapter", "/invocations"]
)
async def test_what_is_not_for_clients_is_not_there(path: str, http: httpx.AsyncClient) -> None:
    refused = await http.post(path, json={"model": "chat"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "unknown_url"
