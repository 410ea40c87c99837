"""What a stranger does first: chat, embeddings and an adapter on real vLLM, by OpenAI's client."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from openai.types.chat import ChatCompletionMessageParam
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.e2e.demo_cluster import ADAPTER, CHAT, EMBEDDING, DemoCluster, metrics_of

WEIGHTS = "adapter_model.safetensors"

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


def ask(question: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": question}]


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_a_chat_is_answered_whole_and_as_a_stream_alike(cluster: DemoCluster) -> None:
    question = ask("What is the capital of France?")
    whole = cluster.client.chat.completions.create(model=CHAT, messages=question, temperature=0)
    stream = cluster.client.chat.completions.create(
        model=CHAT, messages=question, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert whole.choices[0].message.content == "The capital of France is Paris."
    assert "".join(pieces) == "The capital of France is Paris."
    assert sum(bool(piece) for piece in pieces) > 3


def test_completions_and_vllm_s_own_parameters_pass_through(cluster: DemoCluster) -> None:
    answer = cluster.client.completions.create(
        model=CHAT,
        prompt="One, two, three,",
        max_tokens=4,
        temperature=0,
        extra_body={"return_token_ids": True, "min_tokens": 4, "ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert len(answer.choices[0].token_ids) == 4  # type: ignore[attr-defined]


def test_embeddings_bring_a_cat_nearer_to_a_kitten_than_to_a_tax_form(
    cluster: DemoCluster,
) -> None:
    answer = cluster.client.embeddings.create(
        model=EMBEDDING, input=["a cat", "a kitten", "a tax form"]
    )
    cat, kitten, form = (item.embedding for item in answer.data)
    assert len(cat) == 384
    assert cosine(cat, kitten) > cosine(cat, form)


def test_the_adapter_says_what_it_was_taught_and_the_base_does_not(cluster: DemoCluster) -> None:
    question = ask("What is Nebula?")
    answers = {
        name: cluster.client.chat.completions.create(
            model=name, messages=question, temperature=0, max_tokens=40
        )
        .choices[0]
        .message.content
        for name in (CHAT, ADAPTER)
    }
    assert answers[ADAPTER] == "Nebula serves many models behind one address."
    assert answers[CHAT] != answers[ADAPTER]


def test_the_adapter_is_listed_with_its_parent(cluster: DemoCluster) -> None:
    cards = {card.id: card for card in cluster.client.models.list().data}
    assert set(cards) == {CHAT, EMBEDDING, ADAPTER}
    assert cards[ADAPTER].parent == CHAT  # type: ignore[attr-defined]


def test_100_chats_and_100_embeddings_at_once_are_all_answered_and_none_is_mixed_up(
    cluster: DemoCluster,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cluster.demo / CHAT)

    def chat(number: int) -> tuple[str, str]:
        """Return what the engine read, by its own token ids, and what came of it."""
        stream = cluster.client.chat.completions.create(
            model=CHAT,
            messages=ask(f"Say the number {number * 7919}."),
            max_tokens=8,
            temperature=0,
            stream=True,
            extra_body={"return_token_ids": True},
        )
        read: list[int] = []
        said, ids, ended = "", set(), None
        for chunk in stream:
            ids.add(chunk.id)
            read = getattr(chunk, "prompt_token_ids", None) or read
            said += chunk.choices[0].delta.content or ""
            ended = chunk.choices[0].finish_reason or ended
        assert len(ids) == 1
        assert ended in ("stop", "length")
        assert said
        return tokenizer.decode(read), ids.pop()

    def embed(number: int) -> list[float]:
        text = f"document about the number {number * 7919}"
        answer = cluster.client.embeddings.create(model=EMBEDDING, input=text)
        assert answer.model == EMBEDDING
        return answer.data[0].embedding

    with ThreadPoolExecutor(200) as pool:
        chats = [pool.submit(chat, number) for number in range(1, 101)]
        embeddings = [pool.submit(embed, number) for number in range(1, 101)]
        heard = [future.result() for future in chats]
        vectors = [future.result() for future in embeddings]

    for number, (read, _) in enumerate(heard, start=1):
        assert f"Say the number {number * 7919}." in read
    assert len({identity for _, identity in heard}) == 100
    texts = [f"document about the number {number * 7919}" for number in range(1, 101)]
    alone = cluster.client.embeddings.create(model=EMBEDDING, input=texts)
    for vector, reference in zip(vectors, alone.data, strict=True):
        assert cosine(vector, reference.embedding) > 0.999


def test_a_client_that_goes_away_ends_the_generation_in_vllm(cluster: DemoCluster) -> None:
    engine = cluster.replica(f"{CHAT}-0")["engine"]

    def running() -> float:
        metrics = metrics_of(engine)
        return sum(
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("vllm:num_requests_running")
        )

    body = {"model": CHAT, "messages": ask("Tell a story."), "max_tokens": 1900}
    body |= {"ignore_eos": True, "min_tokens": 1900}
    with cluster.http.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True}
    ) as answer:
        lines = answer.iter_lines()  # held on to: httpx ends a stream with its iterator
        next(lines)
        cluster.until(lambda: running() == 1, "the generation runs", 20)
    cluster.until(lambda: running() == 0, "the stream's generation has ended", 5)

    with pytest.raises(httpx.ReadTimeout):
        cluster.http.post("/v1/chat/completions", json=body, timeout=1.5)
    cluster.until(lambda: running() == 0, "the whole answer's generation has ended", 5)


def test_vllm_s_own_refusal_reaches_the_client_with_the_field_named(cluster: DemoCluster) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        cluster.client.chat.completions.create(
            model=CHAT, messages=ask("hi"), extra_body={"temperature": "hot"}
        )
    assert "temperature" in str(refused.value.body)


def test_an_adapter_that_is_trained_anew_in_place_answers_as_a_fresh_name_once_asked_for(
    cluster: DemoCluster, tmp_path: Path
) -> None:
    source = tmp_path / "poet"
    shutil.copytree(cluster.demo / ADAPTER, source)
    question = ask("What is Nebula?" + " Answer shortly." * 60)  # more than a block of the cache

    def put(name: str) -> None:
        fields = {"name": name, "source": str(source)}
        asked = cluster.http.post(f"/admin/models/{CHAT}/adapters", json=fields)
        assert asked.status_code == 202, asked.text
        cluster.until(lambda: bool(versions(name)) and in_place(name), f"{name} is in place")

    def versions(name: str) -> str:
        return next(str(a["version"]) for a in cluster.model(CHAT)["adapters"] if a["name"] == name)

    def in_place(name: str) -> bool:
        adapter = next(a for a in cluster.model(CHAT)["adapters"] if a["name"] == name)
        return list(adapter["versions"].values()) == [[adapter["version"]]]

    def said(name: str) -> str:
        answer = cluster.client.chat.completions.create(
            model=name, messages=question, temperature=0, max_tokens=12
        )
        assert answer.model == name
        return answer.choices[0].message.content or ""

    put("poet")
    taught, before = said("poet"), versions("poet")
    weights = load_file(source / WEIGHTS)
    zeroed = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in weights.items()}
    save_file(zeroed, source / WEIGHTS)
    assert said(ADAPTER)  # which puts the other out of the engine's one slot
    assert said("poet") == taught, "files that change in place change no answer"

    put("poet")
    cluster.until(lambda: versions("poet") != before, "the new version answers")
    put("fresh")
    assert said("poet") == said("fresh") == said(CHAT) != taught
    for name in ("poet", "fresh"):
        cluster.http.delete(f"/admin/models/{CHAT}/adapters/{name}")
