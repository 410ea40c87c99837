"""Embeddings for Cohere's clients, pooled data, classes and scores of a simulated engine."""

import base64
import json
import struct
from typing import Any

import pytest

from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_settings import HfOverrides
from tests.unit.asked_engine import Call, engine, post

pytestmark = pytest.mark.anyio


def embedder(**settings: Any) -> SimulatedEngine:
    return engine(runner="pooling", **settings)


def classifier(labels: int = 1, **settings: Any) -> SimulatedEngine:
    overrides = HfOverrides(num_labels=labels)
    return engine(runner="pooling", convert="classify", hf_overrides=overrides, **settings)


async def vectors(app: SimulatedEngine, *texts: str) -> list[list[float]]:
    response = await post(app, "/v1/embeddings", {"input": texts})
    return [item["embedding"] for item in response.json()["data"]]


# Which engine has which path


SCORES = ["/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"]
ALL = ["/v1/embeddings", "/v2/embed", "/classify", "/pooling", *SCORES]


@pytest.mark.parametrize(
    ("app", "paths"),
    [
        (engine(), []),
        (embedder(), ["/v1/embeddings", "/v2/embed", "/pooling", *SCORES]),
        (classifier(), ["/classify", "/pooling", *SCORES]),
        (classifier(labels=2), ["/classify", "/pooling"]),
        (engine(tasks=("token_embed",)), ["/pooling", *SCORES]),
        (engine(tasks=("token_classify",)), ["/pooling"]),
    ],
)
async def test_an_engine_has_the_paths_that_vllm_registers_for_its_tasks(
    app: SimulatedEngine, paths: list[str]
) -> None:
    found = {path for path in ALL if (await post(app, path, {})).status_code == 400}
    assert found == {*paths}


# Embeddings for Cohere's clients


async def test_coheres_clients_get_the_same_vectors_in_all_their_forms() -> None:
    app = embedder(dimensions=8)
    kinds = ["float", "binary", "ubinary", "base64"]
    body = {"texts": ["cat", "dog"], "embedding_types": kinds, "input_type": "search_query"}
    answer = (await post(app, "/v2/embed", body)).json()
    plain = await vectors(app, "cat", "dog")
    forms = answer["embeddings"]
    assert forms["float"] == plain
    assert list(struct.unpack("<8f", base64.b64decode(forms["base64"][1]))) == plain[1]
    bits = [[number >= 0 for number in vector] for vector in plain]
    unpacked = [[bool(byte >> 7 - at & 1) for at in range(8)] for (byte,) in forms["ubinary"]]
    assert unpacked == bits
    assert [[byte + 128 for byte in row] for row in forms["binary"]] == forms["ubinary"]
    assert answer["texts"] == ["cat", "dog"]
    assert answer["meta"]["billed_units"] == {"input_tokens": 2, "image_tokens": 0}
    assert answer["response_type"] == "embeddings_by_type"


async def test_coheres_inputs_are_texts_in_parts() -> None:
    app = embedder()
    inputs = [{"content": [{"type": "text", "text": "cat"}]}]
    answer = (await post(app, "/v2/embed", {"inputs": inputs})).json()
    assert answer["embeddings"] == {"float": await vectors(app, "cat")}
    assert "texts" not in answer


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "Bad Request"),
        ({"texts": []}, "Bad Request"),
        ({"texts": ["a"], "images": ["b"]}, "Bad Request"),
        ({"texts": ["a"], "embedding_types": ["int8"]}, "Bad Request"),
        ({"texts": ["a"], "output_dimension": 8}, "BadRequestError"),
        ({"texts": ["a"], "embedding_types": ["binary"]}, "BadRequestError"),
    ],
)
async def test_coheres_embeddings_are_refused_as_vllm_does(body: Any, kind: str) -> None:
    response = await post(embedder(dimensions=12), "/v2/embed", body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, kind)


# Pooled data


async def test_pooled_data_is_that_of_the_models_task() -> None:
    async def data(app: SimulatedEngine) -> Any:
        response = await post(app, "/pooling", {"input": "a cat"})
        answer = response.json()
        assert answer["id"].startswith("pooling-")
        assert answer["data"][0]["object"] == "pooling"
        return answer["data"][0]["data"]

    assert [await data(embedder())] == await vectors(embedder(), "a cat")
    assert sum(await data(classifier(labels=3))) == pytest.approx(1)
    assert await data(engine(tasks=("token_embed",))) == await vectors(embedder(), "a", "cat")
    tokens = await data(engine(tasks=("token_classify",), hf_overrides=HfOverrides(num_labels=4)))
    assert [len(each) for each in tokens] == [4, 4]


async def test_pooled_data_comes_as_bytes_whose_metadata_is_in_a_header() -> None:
    app = engine(tasks=("token_embed",), dimensions=8)
    plain = (await post(app, "/pooling", {"input": ["a b", "c"]})).json()["data"]
    packed = await post(app, "/pooling", {"input": ["a b", "c"], "encoding_format": "bytes"})
    assert packed.headers["content-type"] == "application/octet-stream"
    metadata = json.loads(packed.headers["metadata"])
    assert [(item["start"], item["end"], item["shape"]) for item in metadata["data"]] == [
        (0, 64, [2, 8]),
        (64, 96, [1, 8]),
    ]
    flat = [number for item in plain for vector in item["data"] for number in vector]
    assert list(struct.unpack("<24f", packed.content)) == flat
    bare = await post(app, "/pooling", {"input": ["a b", "c"], "encoding_format": "bytes_only"})
    assert "metadata" not in bare.headers
    assert bare.content == packed.content
    coded = await post(app, "/pooling", {"input": "c", "encoding_format": "base64"})
    assert base64.b64decode(coded.json()["data"][0]["data"]) == packed.content[64:]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"task": "classify"}, "task"),
        ({"task": "token_embed"}, "task"),
        ({"task": "score"}, "task"),
        ({"task": "plugin"}, "task"),
        ({"task": "no such"}, "body.task"),
        ({"normalize": True}, "normalize"),
        ({"dimensions": 3}, "dimensions"),
        ({"input": []}, None),
        ({"input": None}, "body.input"),
    ],
)
async def test_pooled_data_that_the_model_does_not_have_is_refused(
    fields: dict[str, Any], param: str | None
) -> None:
    response = await post(embedder(), "/pooling", {"input": "a", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# Classes


async def test_a_text_has_the_same_class_everywhere() -> None:
    texts = ["a cat", "a dog", "a cat"]
    response = await post(classifier(labels=3), "/classify", {"input": texts})
    cat, dog, again = items = response.json()["data"]
    assert [item["index"] for item in items] == [0, 1, 2]
    assert cat["probs"] == again["probs"] != dog["probs"]
    for item in items:
        assert sum(item["probs"]) == pytest.approx(1)
        assert item["num_classes"] == 3
        assert item["label"] == f"LABEL_{item['probs'].index(max(item['probs']))}"
    assert response.json()["usage"]["prompt_tokens"] == 6
    chat = {"messages": [{"role": "user", "content": "a cat"}]}
    other = await post(classifier(labels=3), "/classify", chat)
    assert other.json()["data"][0]["probs"] == cat["probs"]


# Scores


async def test_an_embedding_models_score_is_the_cosine_of_its_vectors() -> None:
    app = embedder()
    cat, dog = await vectors(app, "a cat", "a dog")
    body = {"text_1": "a cat", "text_2": ["a dog", "a cat"]}
    answer = (await post(app, "/score", body)).json()
    far, same = (item["score"] for item in answer["data"])
    assert far == pytest.approx(sum(one * other for one, other in zip(cat, dog, strict=True)))
    assert same == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == 6  # the query once


@pytest.mark.parametrize(
    ("first", "second"),
    [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")],
)
async def test_pairs_are_scored_under_all_of_their_names(first: str, second: str) -> None:
    body = {first: ["a cat", "a dog"], second: ["a cat", "the sun"]}
    answer = (await post(classifier(), "/v1/score", body)).json()
    near, far = (item["score"] for item in answer["data"])
    assert 0 <= far < near <= 1
    assert answer["usage"]["prompt_tokens"] == 8  # each query with its document


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("app", [embedder(), classifier()])
async def test_documents_are_ranked_by_their_score(app: SimulatedEngine, path: str) -> None:
    documents = ["the sun", "a dog", "a cat"]
    body = {"query": "a cat", "documents": documents}
    answer = (await post(app, path, body)).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["results"][0]["index"] == 2
    for result in answer["results"]:
        text = documents[result["index"]]
        assert result["document"] == {"text": text, "multi_modal": None}
    asked = {"queries": "a cat", "documents": documents}
    plain = (await post(app, "/score", asked)).json()["data"]
    assert {result["index"]: result["relevance_score"] for result in answer["results"]} == {
        item["index"]: item["score"] for item in plain
    }
    best = (await post(app, path, {**body, "top_n": 1})).json()["results"]
    assert best == answer["results"][:1]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/score", {}, 400),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, 400),
        ("/score", {"text_1": "a", "text_2": []}, 400),
        ("/score", {"text_1": [], "text_2": ["a"]}, 400),
        ("/score", {"text_1": "a", "text_2": {"content": [{"type": "text", "text": "b"}]}}, 400),
        ("/rerank", {"query": "a"}, 400),
        ("/rerank", {"query": "a", "documents": []}, 400),
        ("/rerank", {"query": "a", "documents": [{"text": "b"}]}, 400),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, 400),
        ("/rerank", {"query": "a", "documents": ["b"], "model": "big"}, 404),
        ("/rerank", {"query": "a", "documents": ["b b b b b"]}, 400),
    ],
)
async def test_scores_of_what_makes_no_pairs_are_refused(
    path: str, body: dict[str, Any], status: int
) -> None:
    response = await post(embedder(max_model_len=4), path, body)
    assert response.status_code == response.json()["error"]["code"] == status


# Faults


async def test_pooling_waits_and_fails_as_it_is_told() -> None:
    app = classifier(orders=True)
    refused = await post(app, "/rerank", {"query": "a", "documents": ["!status=503"]})
    assert refused.status_code == 503
    await post(app, "/simulate", {"stall": True})
    call = Call(app, "/classify", {"input": "a"})
    waiting = Call(app, "/rerank", {"query": "a", "documents": ["b"]})
    await post(app, "/simulate", {"stall": False})
    for each in (call, waiting):
        await each.task
        assert (await each.sent.get())["status"] == 200
    assert app.core.finished == 2
