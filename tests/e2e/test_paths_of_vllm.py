"""Every path that clients of vLLM use, through Nebula, with the clients that people use there."""

import array
import json

import anthropic
import httpx
import openai
import pytest
from anthropic.types import MessageParam

from tests.e2e.demo_cluster import CHAT, EMBEDDING, ONE_CLASS, DemoCluster

CLASSES = "classes"
QUESTION = "Say hello."
ASKED: MessageParam = {"role": "user", "content": QUESTION}


def asked(cluster: DemoCluster, path: str, **body: object) -> dict[str, object]:
    """POST to a path that no client library knows; return the answer of a 200."""
    answer = cluster.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    read: dict[str, object] = answer.json()
    return read


def test_a_response(cluster: DemoCluster) -> None:
    answer = cluster.client.responses.create(
        model=CHAT, input=QUESTION, max_output_tokens=8, temperature=0, store=False
    )
    assert answer.status in ("completed", "incomplete")
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8


def test_a_streamed_response_is_the_same_text(cluster: DemoCluster) -> None:
    whole = cluster.client.responses.create(
        model=CHAT, input=QUESTION, max_output_tokens=8, temperature=0, store=False
    )
    with cluster.client.responses.create(
        model=CHAT, input=QUESTION, max_output_tokens=8, temperature=0, store=False, stream=True
    ) as stream:
        events = list(stream)
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_a_response_of_an_unknown_model_is_openai_s_error(cluster: DemoCluster) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        cluster.client.responses.create(model="nothing", input=QUESTION)


def test_a_message(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model=CHAT, max_tokens=8, messages=[ASKED])
    (block,) = answer.content
    assert block.type == "text"
    assert block.text
    assert (answer.role, answer.stop_reason) == ("assistant", "max_tokens")
    assert answer.usage.output_tokens == 8


def test_a_streamed_message(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=CHAT, max_tokens=8, messages=[ASKED]) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert text == "".join(block.text for block in answer.content if block.type == "text")
    assert answer.usage.output_tokens == 8


def test_tokens_of_a_message_are_counted_as_they_are_used(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=CHAT, messages=[ASKED])
    answer = claude.messages.create(model=CHAT, max_tokens=1, messages=[ASKED])
    assert counted.input_tokens == answer.usage.input_tokens


def test_errors_of_messages_are_anthropic_s_from_gateway_and_engine(
    claude: anthropic.Anthropic, cluster: DemoCluster
) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="nothing", max_tokens=8, messages=[ASKED])
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model=CHAT, max_tokens=-1, messages=[ASKED])
    for error in (unknown.value, refused.value):
        assert isinstance(error.body, dict)
        assert error.body["type"] == "error"
        assert error.body["error"]["message"]
    late = cluster.http.post(
        "/v1/messages",
        json={"model": EMBEDDING, "max_tokens": 1, "messages": [ASKED]},
    )
    assert (late.status_code, late.json()["type"]) == (400, "error")


def test_several_chats_in_one_request(cluster: DemoCluster) -> None:
    one = [{"role": "user", "content": QUESTION}]
    answer = asked(
        cluster,
        "/v1/chat/completions/batch",
        model=CHAT,
        messages=[one, one],
        max_tokens=2,
        temperature=0,
    )
    choices = answer["choices"]
    assert isinstance(choices, list)
    assert len(choices) == 2


@pytest.mark.parametrize("model", [CHAT, EMBEDDING])
def test_text_becomes_tokens_and_tokens_the_text(cluster: DemoCluster, model: str) -> None:
    tokens = asked(
        cluster, "/tokenize", model=model, prompt="hello world", add_special_tokens=False
    )["tokens"]
    text = asked(cluster, "/detokenize", model=model, tokens=tokens)["prompt"]
    assert text == "hello world"


def test_the_probability_of_each_label_is_scored(cluster: DemoCluster) -> None:
    answer = asked(
        cluster,
        "/generative_scoring",
        model=CHAT,
        query="Is this true? ",
        items=["water is wet", "fire is cold"],
        label_token_ids=[1, 2],
    )
    data = answer["data"]
    assert isinstance(data, list)
    assert len(data) == 2


DOCUMENTS = ["A cat sat on the mat.", "Interest rates have risen again.", "Dogs and cats."]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_by_what_they_have_to_do_with_a_query(
    cluster: DemoCluster, path: str
) -> None:
    answer = asked(
        cluster, path, model=EMBEDDING, query="Where is the cat?", documents=DOCUMENTS, top_n=2
    )
    results = answer["results"]
    assert isinstance(results, list)
    assert [each["index"] for each in results] == [0, 2]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_of_texts_are_scored(cluster: DemoCluster, path: str) -> None:
    answer = asked(cluster, path, model=EMBEDDING, text_1="a cat", text_2=["a kitten", "a tax"])
    data = answer["data"]
    assert isinstance(data, list)
    near, far = (each["score"] for each in data)
    assert near > far


def test_pooled_vectors_and_cohere_s_are_those_of_openai_s_path(cluster: DemoCluster) -> None:
    pooled = asked(cluster, "/pooling", model=EMBEDDING, input="a cat", task="embed")
    cohere = asked(
        cluster,
        "/v2/embed",
        model=EMBEDDING,
        texts=["a cat", "a dog"],
        embedding_types=["float"],
    )
    plain = cluster.client.embeddings.create(model=EMBEDDING, input=["a cat", "a dog"])
    assert isinstance(pooled["data"], list)
    assert pooled["data"][0]["data"] == pytest.approx(plain.data[0].embedding, abs=1e-3)
    vectors = cohere["embeddings"]
    assert isinstance(vectors, dict)
    assert vectors["float"][0] == pytest.approx(plain.data[0].embedding, abs=1e-3)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling"])
def test_vectors_in_bytes_are_those_in_json(cluster: DemoCluster, path: str) -> None:
    body = {"model": EMBEDDING, "input": ["a cat", "a dog"], "encoding_format": "bytes"}
    answer = cluster.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    items = json.loads(answer.headers["metadata"])["data"]
    plain = cluster.client.embeddings.create(model=EMBEDDING, input=["a cat", "a dog"])
    for item, expected in zip(items, plain.data, strict=True):
        vector = array.array("f", answer.content[item["start"] : item["end"]])
        assert list(vector) == pytest.approx(expected.embedding, abs=1e-3)
    bare = cluster.http.post(path, json={**body, "encoding_format": "bytes_only"})
    assert (bare.content, "metadata" in bare.headers) == (answer.content, False)


def test_a_model_loaded_for_classes_serves_classify_and_nothing_of_text(
    cluster: DemoCluster,
) -> None:
    source = str((cluster.demo / CHAT).resolve())
    loaded = cluster.http.post(
        "/admin/models",
        json={
            "source": source,
            "name": CLASSES,
            "task": "classify",
            "options": {"hf-overrides": ONE_CLASS},
        },
    )
    assert loaded.status_code == 202, loaded.text
    try:
        cluster.until(lambda: cluster.serves(CLASSES), "the model for classes is served")
        answer = asked(cluster, "/classify", model=CLASSES, input=["a cat", "a dog"])
        data = answer["data"]
        assert isinstance(data, list)
        assert len(data) == 2
        assert all(0 < share < 1 for each in data for share in each["probs"])
        assert asked(cluster, "/score", model=CLASSES, text_1="a cat", text_2="a dog")["data"]
        (card,) = [
            each for each in cluster.http.get("/v1/models").json()["data"] if each["id"] == CLASSES
        ]
        assert "classify" in card["tasks"]
        refused = cluster.http.post(
            "/v1/embeddings", json={"model": CLASSES, "input": "a cat"}
        ).json()["error"]
        assert refused["code"] == "wrong_task"
        assert "/classify" in refused["message"]
    finally:
        cluster.http.delete(f"/admin/models/{CLASSES}")


def test_cards_tell_tasks_and_context(cluster: DemoCluster) -> None:
    cards = {each["id"]: each for each in cluster.http.get("/v1/models").json()["data"]}
    assert "generate" in cards[CHAT]["tasks"]
    assert "embed" in cards[EMBEDDING]["tasks"]
    assert cards[CHAT]["max_model_len"] > 0


def test_what_administers_an_engine_is_out_of_reach(cluster: DemoCluster) -> None:
    for path in ("/collective_rpc", "/sleep", "/v1/load_lora_adapter", "/invocations"):
        answer: httpx.Response = cluster.http.post(path, json={"model": CHAT})
        assert answer.status_code == 404, path
