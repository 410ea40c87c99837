"""The examples of the OpenAPI document do what they say, at a real gateway."""

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import openapi_spec_validator
import pytest

from nebula.http.document.entries import MODELS
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

SOUND = ("sound.wav", b"RIFF and so on", "audio/wav")


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with the models of the examples."""

    async def load() -> None:
        await cluster.ready()
        for name, task in MODELS.items():
            hears = {"simulate-tasks": "transcription"} if task == "transcription" else {}
            await cluster.load(name, task=task, memory="64MiB", options=hears)

    asyncio.run(load())
    return cluster


async def ask(
    http: httpx.AsyncClient, method: str, path: str, operation: Any, values: dict[str, str]
) -> httpx.Response:
    for each in operation["parameters"]:
        if each.get("in") == "path":
            place = f"{{{each['name']}}}"
            path = path.replace(place, values.get(each["name"], each["example"]))
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        fields = {
            name: {"model": "ears", "purpose": "user_data"}[name]
            for name in content["multipart/form-data"]["schema"]["required"]
            if name != "file"
        }
        return await http.request(method, path, data=fields, files={"file": SOUND})
    if content:
        example = content["application/json"]["example"]
        body = {name: values.get(name, value) for name, value in example.items()}
        return await http.request(method, path, json=body)
    return await http.request(method, path)


async def test_every_example_is_answered_as_the_document_says(served: Cluster) -> None:
    """What removes something comes last."""
    async with served.http() as http:
        told = (await http.get("/openapi.json")).json()
        openapi_spec_validator.validate(told)
        kept = await http.post(CHAT, json=chat("chat"), headers={"x-resumable": "true"})
        stored = await http.post("/v1/files", data={"purpose": "user_data"}, files={"file": SOUND})
        line = {"custom_id": "1", "method": "POST", "url": CHAT, "body": chat("chat")}
        lines = {"file": ("lines.jsonl", json.dumps(line).encode())}
        batch = await http.post("/v1/files", data={"purpose": "batch"}, files=lines)
        said = {"model": "chat", "input": "Hello", "background": True}
        response = await http.post("/v1/responses", json=said)
        conversation = await http.post("/v1/conversations", json={})
        item = {"type": "message", "role": "user", "content": "Hello"}
        at = f"/v1/conversations/{conversation.json()['id']}/items"
        items = await http.post(at, json={"items": [item]})
        values = {
            "response": response.json()["id"],
            "conversation": conversation.json()["id"],
            "item": items.json()["data"][0]["id"],
            "identity": kept.headers["x-request-id"],
            "file": stored.json()["id"],
            "input_file_id": batch.json()["id"],
        }
        asked = [
            (method.upper(), path, operation)
            for path, methods in told["paths"].items()
            for method, operation in methods.items()
        ]
        asked.sort(key=_turn)
        for method, path, operation in asked:
            answer = await ask(http, method, path, operation, values)
            which = f"{method} {path}: {answer.status_code} {answer.text[:300]}"
            documented = operation["responses"].get(str(answer.status_code))
            if documented is None:
                assert (method, path) in REFUSED, which
                assert answer.status_code in (400, 404, 409), which
                documented = told["components"]["responses"]["Error"]
            schema = documented.get("content", {}).get("application/json", {}).get("schema", {})
            if path == "/v1/batches" and method == "POST":
                values["batch"] = answer.json()["id"]
            if schema and answer.headers["content-type"].startswith("application/json"):
                jsonschema.validate(answer.json(), {**schema, "components": told["components"]})


def _turn(asked: tuple[str, str, Any]) -> tuple[bool, int, int]:
    """Return a key that puts what others need before them, and the administration last."""
    method, path, _ = asked
    order = ("POST", "PUT", "GET", "PATCH", "DELETE").index(method)
    return path.startswith("/admin/"), order, -path.count("/") if method == "DELETE" else 0


REFUSED = {
    ("GET", "/v1/organization/usage/completions"),
    ("GET", "/v1/organization/usage/embeddings"),
    ("GET", "/admin/differences"),
    ("GET", "/admin/why"),
    ("POST", "/admin/changes"),
    ("POST", "/admin/replicas/{replica}/kill"),
    ("GET", "/admin/reversion"),
    ("GET", "/login"),
    ("GET", "/login/callback"),
    ("GET", "/login/settings"),
    ("POST", "/login/token"),
    ("POST", "/v1/batches/{batch}/cancel"),
    ("POST", "/admin/batches/{batch}/cancel"),
    ("DELETE", "/admin/nodes/{node}"),
    ("DELETE", "/admin/requests/{identity}"),
    ("GET", "/admin/captured/{identity}"),
    ("POST", "/admin/captured/{identity}/replay"),
    ("DELETE", "/admin/nodes/{node}/weights/{source}"),
}
"""Operations whose objects are in use here: a node that runs, files that were just pinned;
a batch or a request that is over by then; a request that was not captured; or that need a parameter
of the query, or a provider at which people sign in."""


async def test_the_page_is_shown_to_a_browser(served: Cluster) -> None:
    async with served.http() as http:
        answer = await http.get("/docs", headers={"sec-fetch-site": "none"})
        version = (await http.get("/version")).json()["version"]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert f"Nebula {version}" in answer.text
    assert f"http://127.0.0.1:{served.port}/v1/chat/completions" in answer.text
