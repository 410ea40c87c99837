"""What the gateway refuses, and that it says so in OpenAI's form with the field at fault."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from nebula.http.inference import LARGEST_BODY
from nebula.store.server import MAX_PAYLOAD
from tests.integration.asking import CHAT, chat, error, said, stream
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

STRANGE = ["*", ">", "a b", "a.b", "ä", "../x", "chat.>", "$JS.API.>", "x" * 256]


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", name="org/chat")
        await cluster.load("embed", task="embedding")

    asyncio.run(load())


async def test_an_unknown_model_is_answered_with_the_names_there_are(cluster: Cluster) -> None:
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("gpt-4")), 404)
        shown = error(await http.get("/v1/models/gpt-4"), 404)
    assert refused["message"] == (
        "The model 'gpt-4' does not exist. There are: 'embed', 'org/chat'"
    )
    assert refused["param"] == shown["param"] == "model"
    assert refused["code"] == shown["code"] == "model_not_found"


@pytest.mark.parametrize(
    "fields",
    [
        [("X-Request-Timeout", "1_0")],
        [("X-Request-Timeout", "9"), ("X-Request-Timeout", "9")],
        [("Idempotency-Key", "")],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
        [("X-Resumable", "maybe")],
    ],
)
async def test_a_field_of_nebulas_own_that_is_not_valid_is_a_400_that_says_so(
    cluster: Cluster, fields: list[tuple[str, str]]
) -> None:
    name = fields[0][0]
    async with cluster.http() as http:
        refused = await http.post(CHAT, json=chat("org/chat", max_tokens=1), headers=fields)
        assert name in error(refused, 400)["message"]
        if name == "Idempotency-Key":
            load = {"source": "simulated", "id": "never"}
            refused = await http.post("/admin/models", json=load, headers=fields)
            assert name in error(refused, 400)["message"]
    assert "never" not in (await cluster.state()).models


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"messages": []}, "model"),
        (CHAT, {"model": None, "messages": []}, "model"),
        (CHAT, {"model": 7, "messages": []}, "model"),
        (CHAT, {"model": "org/chat"}, "messages"),
        (CHAT, {"model": "org/chat", "messages": None}, "messages"),
        (CHAT, {"model": "org/chat", "messages": "hello"}, "messages"),
        ("/v1/completions", {"model": "org/chat"}, "prompt"),
        ("/v1/completions", {"model": "org/chat", "prompt": {"a": 1}}, "prompt"),
        ("/v1/embeddings", {"model": "embed"}, "input"),
        ("/v1/embeddings", {"model": "embed", "input": 5}, "input"),
        (CHAT, chat("embed"), "model"),
        ("/v1/embeddings", {"model": "org/chat", "input": "x"}, "model"),
        ("/v1/completions", {"model": "embed", "prompt": "x"}, "model"),
    ],
)
async def test_a_field_that_is_missing_or_wrong_is_named(
    cluster: Cluster, path: str, body: dict[str, Any], field: str
) -> None:
    async with cluster.http() as http:
        refused = error(await http.post(path, json=body), 400)
    assert refused["param"] == field
    assert refused["type"] == "invalid_request_error"


async def test_a_chat_with_an_embedding_model_is_told_what_the_model_is_for(
    cluster: Cluster,
) -> None:
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("embed")), 400)
    assert refused["message"].startswith(
        f"'embed' does not serve {CHAT}: it serves /v1/embeddings,"
    )
    assert refused["code"] == "wrong_task"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[1, 2]",
        b'"text"',
        b"null",
        b'{"model": "org/chat", "messages": [}',
        b"\xff\xfe",
        b'{"model": "org/chat", "messages": ["\xff"]}',
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "org/chat", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"deep": ' * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
@pytest.mark.parametrize("path", [CHAT, "/admin/models"])
async def test_a_body_that_is_not_valid_json_is_refused_and_nothing_breaks(
    cluster: Cluster, path: str, body: bytes
) -> None:
    async with cluster.http() as http:
        error(await http.post(path, content=body), 400)
        assert said(await http.post(CHAT, json=chat("org/chat", max_tokens=1))) == "hello"


async def test_what_only_the_engine_can_judge_is_refused_in_the_engine_s_words(
    cluster: Cluster,
) -> None:
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("org/chat", max_tokens="many"))
        refused = answer.json()["error"]
    assert answer.status_code == 400
    assert "max_tokens" in refused["param"]


async def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(
    cluster: Cluster,
) -> None:
    body = json.dumps(chat("org/chat", "x" * LARGEST_BODY)).encode()

    async def chunked() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with cluster.http() as http:
        for content in (body, chunked()):
            refused = error(await http.post(CHAT, content=content), 413)
            assert "is larger than" in refused["message"]
        error(await http.post("/admin/models", content=body), 413)


async def test_a_body_just_under_the_limit_is_answered(cluster: Cluster) -> None:
    word = "x" * 1023
    count = (MAX_PAYLOAD - 32 * 1024) // len(f"{word} ")
    text = " ".join([word] * count)
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("org/chat", text, min_tokens=count))
        heard = await stream(http, chat("org/chat", text, max_tokens=8))
    assert said(answer) == text
    assert heard.whole
    assert heard.text == " ".join([word] * 8)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", "/v1/embeddings", 405),
        ("POST", "/v1/models", 405),
        ("PUT", "/admin/models", 405),
        ("GET", "/v1/nonsense", 404),
        ("POST", "/", 404),
        ("GET", "/admin/models/a/b/c", 404),
    ],
)
async def test_a_wrong_path_or_method_is_told_in_the_same_form(
    cluster: Cluster, method: str, path: str, status: int
) -> None:
    async with cluster.http() as http:
        answer = await http.request(method, path, json={} if method == "POST" else None)
        error(answer, status)
        if status == 405:
            assert answer.headers["allow"]


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
async def test_a_strange_name_reaches_nothing_while_it_is_unknown(
    cluster: Cluster, name: str
) -> None:
    async with cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat(name)), 404)
        assert refused["code"] == "model_not_found"
        for method, path in (("GET", "/v1/models/"), ("DELETE", "/admin/models/")):
            url = httpx.URL(scheme="http", host="127.0.0.1", port=cluster.port)
            raw = (path + quoted(name)).encode()
            error(await http.request(method, url.copy_with(raw_path=raw)), 404)


def quoted(name: str) -> str:
    """Escape every byte, so that no client or server tidies a path up."""
    return "".join(f"%{byte:02x}" for byte in name.encode())


async def test_strange_names_work_for_models_that_are_loaded_under_them(cluster: Cluster) -> None:
    async with cluster.http() as http:
        for name in STRANGE:
            request = {"source": "simulated", "name": name, "memory": "128MiB"}
            answer = await http.post("/admin/models", json=request)
            assert answer.status_code == 202, answer.text
        state = await cluster.state()
        for name in STRANGE:
            await cluster.stands(state.names[name].model)
        for name in STRANGE:
            answer = await http.post(CHAT, json=chat(name, "it is me", max_tokens=3))
            assert said(answer) == "it is me"
            assert answer.json()["model"] == name
            shown = await http.get(f"/v1/models/{quoted(name)}")
            assert shown.json()["id"] == name
            gone = await http.delete(f"/admin/models/{state.names[name].model}")
            assert gone.status_code == 202
